/** A headless Chromium and a server of pages for it. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createReadStream, statSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';

const NAMES = ['chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome'];

/** The command that starts a Chromium, if there is one. */
export function findChromium(): string | undefined {
  const names = process.env.LUTRA_TEST_CHROMIUM === undefined ? NAMES : [process.env.LUTRA_TEST_CHROMIUM];
  return names.find((name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0);
}

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};

/** Makes a page cross-origin isolated. */
const ISOLATED = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

export interface PageServer {
  /** Runs a module script in a page and gives what it passes to `report`. It may import the mounted folders' files. */
  run(script: string, options?: { readonly isolated?: boolean }): Promise<unknown>;
  close(): Promise<void>;
}

/**
 * Serves folders under `/name/`, and starts a browser for each page. `imports` maps the names of packages to addresses.
 * `profile` is an empty folder for what the browser writes.
 */
export async function servePages(options: {
  readonly chromium: string;
  readonly folders: Readonly<Record<string, string>>;
  readonly imports: Readonly<Record<string, string>>;
  readonly profile: string;
}): Promise<PageServer> {
  let page = { html: '', isolated: true };
  let reported: (value: unknown) => void = () => undefined;

  const serveFile = (path: string, response: ServerResponse) => {
    const [, folder = '', ...rest] = path.split('/');
    const root = options.folders[folder];
    const file = root === undefined ? undefined : join(root, normalize(`/${rest.join('/')}`));
    if (file === undefined || statSync(file, { throwIfNoEntry: false })?.isFile() !== true) {
      response.writeHead(404).end();
      return;
    }
    const headers = { 'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream', ...ISOLATED };
    createReadStream(file).pipe(response.writeHead(200, headers));
  };
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    if (request.method === 'POST') {
      let body = '';
      for await (const chunk of request) body += chunk;
      response.end();
      reported(JSON.parse(body));
    } else if (pathname === '/') {
      response.writeHead(200, { 'Content-Type': 'text/html', ...(page.isolated ? ISOLATED : {}) });
      response.end(page.html);
    } else serveFile(pathname, response);
  };
  const server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;

  return {
    run: (script, { isolated = true } = {}) => {
      const post = "(value) => fetch('/report', { method: 'POST', body: JSON.stringify(value) })";
      const html = `<!doctype html><script type="importmap">${JSON.stringify({ imports: options.imports })}</script>
<script type="module">
const report = ${post};
window.onerror = (message) => report({ failure: String(message) });
try {
  ${script}
} catch (error) {
  report({ failure: String(error), code: error.code, hint: error.hint });
}
</script>`;
      page = { html, isolated };
      return inBrowser(options, `http://127.0.0.1:${port}/`, (report) => {
        reported = report;
      });
    },
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

/** Opens a page and waits for its report. */
function inBrowser(
  { chromium, profile }: { readonly chromium: string; readonly profile: string },
  url: string,
  onReport: (report: (value: unknown) => void) => void,
): Promise<unknown> {
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--mute-audio'];
  // A group of its own: the browser's processes end with it.
  const child = spawn(chromium, [...flags, '--remote-debugging-port=0', `--user-data-dir=${profile}`, url], {
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text;
  });
  return new Promise<unknown>((resolve, reject) => {
    onReport(resolve);
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`the browser ended with ${code}: ${log.slice(-2000)}`)));
  }).finally(() => endGroup(child));
}

async function endGroup(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  process.kill(-child.pid, 'SIGKILL');
  await ended;
}
