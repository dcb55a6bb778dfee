/**
 * A server that behaves like the Hugging Face hub, with its content network on another port, and with
 * every misfortune that a test asks for.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

export interface HubRepo {
  readonly commit: string;
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** Names stored as large files: redirected to the content network, known by SHA-256. */
  readonly large: ReadonlySet<string>;
  /** Who may read it: everyone, whoever has accepted its terms, or its owner. */
  readonly access?: 'gated' | 'private';
}

/** What goes wrong with one answer. */
interface Mishap {
  /** Another status, with `headers`. */
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Another body, with `headers`. */
  readonly body?: string;
  /** The connection breaks after so many bytes of the body. */
  readonly breakAfter?: number;
  /** Nothing more comes after so many bytes, but the connection stays. */
  readonly stallAfter?: number;
  /** The body ends early, as if that were all. */
  readonly endAfter?: number;
  /** The body comes in ten parts, with so many milliseconds before each. */
  readonly slowly?: number;
  /** One byte of the body is another. */
  readonly corrupt?: boolean;
  /** The Range header is ignored. */
  readonly ignoreRange?: boolean;
  /** Another part than the one asked for. */
  readonly wrongRange?: boolean;
}

type Handler = (request: IncomingMessage, response: ServerResponse, mishap: Mishap) => void;

interface LoggedRequest {
  readonly server: 'hub' | 'content';
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
}

export interface FakeHub extends AsyncDisposable {
  readonly endpoint: string;
  readonly token: string;
  readonly log: LoggedRequest[];
  readonly repos: Map<string, HubRepo>;
  /** Asked before each answer; `undefined` lets it be as it should. */
  mishap: (request: LoggedRequest) => Mishap | undefined;
  /** Called with the path when so much of a body has been sent that `stallAfter` holds it. */
  onStall: (path: string) => void;
  /** Leaves sizes and hashes out of listings, as some mirrors do. */
  plainListings: boolean;
}

export function sha256(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

export function gitBlob(content: Uint8Array): string {
  return createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');
}

export function etagOf(repo: HubRepo, name: string): string {
  const content = repo.files.get(name)!;
  return repo.large.has(name) ? sha256(content) : gitBlob(content);
}

/** With `tls` (both in PEM), hub and content network speak HTTPS. */
export async function startHub(tls?: { readonly key: string; readonly cert: string }): Promise<FakeHub> {
  const log: LoggedRequest[] = [];
  const repos = new Map<string, HubRepo>();
  const serve = (server: LoggedRequest['server'], handle: Handler) => {
    const listener = (request: IncomingMessage, response: ServerResponse) => {
      const { method = '', url = '', headers } = request;
      const entry = { server, method, path: url, headers };
      log.push(entry);
      const mishap = hub.mishap(entry) ?? {};
      const { status = 200, body } = mishap;
      if (status !== 200 || body !== undefined) response.writeHead(status, mishap.headers).end(body);
      else handle(request, response, mishap);
    };
    return listen(tls === undefined ? createServer(listener) : createTlsServer(tls, listener));
  };

  const content = await serve('content', (request, response, mishap) => {
    const hash = new URL(request.url!, 'http://content').pathname.slice(1);
    for (const { files, large } of repos.values()) {
      for (const name of large) {
        const body = files.get(name)!;
        if (sha256(body) !== hash) continue;
        // As on S3: the content network's own etag is another.
        sendBody(hub, request, response, mishap, body, { etag: '"d41d8cd98f00b204-17"' });
        return;
      }
    }
    response.writeHead(403).end();
  });
  const main = await serve('hub', (request, response, mishap) =>
    answer(hub, content.origin, request, response, mishap),
  );

  const hub: FakeHub = {
    endpoint: main.origin,
    token: 'hf_secret',
    log,
    repos,
    mishap: () => undefined,
    onStall: () => undefined,
    plainListings: false,
    async [Symbol.asyncDispose]() {
      await Promise.all([main.close(), content.close()]);
    },
  };
  return hub;
}

function answer(
  hub: FakeHub,
  contentOrigin: string,
  request: IncomingMessage,
  response: ServerResponse,
  mishap: Mishap,
): void {
  const { pathname } = new URL(request.url!, hub.endpoint);
  const api = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/([^/]+)$/.exec(pathname);
  const resolve = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(pathname);
  const [, name = '', revision = '', file] = api ?? resolve ?? [];
  const repo = hub.repos.get(name);
  const known = request.headers.authorization === `Bearer ${hub.token}`;
  if (repo === undefined || (repo.access === 'private' && !known)) {
    refuse(response, known ? 404 : 401, 'RepoNotFound', 'Repository not found');
    return;
  }
  if (repo.access === 'gated' && !known && resolve !== null) {
    refuse(response, 401, 'GatedRepo', `Access to model ${name} is restricted.`);
    return;
  }
  const commit = decodeURIComponent(revision);
  if (!['main', 'refs/pr/1', repo.commit].includes(commit)) {
    refuse(response, 404, 'RevisionNotFound', `Invalid rev id: ${commit}`);
    return;
  }
  if (api !== null) {
    sendListing(hub, repo, response);
    return;
  }
  const path = decodeURIComponent(file!);
  const body = repo.files.get(path);
  const headers = { 'x-repo-commit': repo.commit };
  if (body === undefined) {
    refuse(response, 404, 'EntryNotFound', 'Entry not found', headers);
    return;
  }
  if (!repo.large.has(path)) {
    sendBody(hub, request, response, mishap, body, {
      ...headers,
      etag: `"${gitBlob(body)}"`,
    });
    return;
  }
  response.writeHead(302, {
    ...headers,
    'x-linked-etag': `"${sha256(body)}"`,
    'x-linked-size': String(body.length),
    location: `${contentOrigin}/${sha256(body)}?signature=1`,
  });
  response.end();
}

function refuse(
  response: ServerResponse,
  status: number,
  code: string,
  message: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { ...headers, 'x-error-code': code, 'x-error-message': message });
  response.end(JSON.stringify({ error: message }));
}

function sendListing(hub: FakeHub, repo: HubRepo, response: ServerResponse): void {
  const siblings = Array.from(repo.files, ([rfilename, body]) => {
    if (hub.plainListings) return { rfilename };
    const large = repo.large.has(rfilename);
    // The blobId of a large file is that of its pointer.
    const blobId = gitBlob(large ? new TextEncoder().encode(`oid sha256:${sha256(body)}`) : body);
    const lfs = large && { lfs: { sha256: sha256(body), size: body.length, pointerSize: 135 } };
    return { rfilename, size: body.length, blobId, ...lfs };
  });
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ sha: repo.commit, siblings }));
}

function sendBody(
  hub: FakeHub,
  request: IncomingMessage,
  response: ServerResponse,
  mishap: Mishap,
  whole: Uint8Array,
  headers: Record<string, string>,
): void {
  const [, range, last] =
    (mishap.ignoreRange ? undefined : /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '')) ?? [];
  let start = Number(range ?? 0);
  if (range !== undefined && start >= whole.length) {
    response.writeHead(416, { 'content-range': `bytes */${whole.length}` }).end();
    return;
  }
  if (mishap.wrongRange && range !== undefined) start += 1;
  const end = last ? Math.min(Number(last) + 1, whole.length) : whole.length;
  let body = whole.slice(start, end);
  const contentRange = { 'content-range': `bytes ${start}-${end - 1}/${whole.length}` };
  // Without a length, an early end cannot be told from the true one.
  const length = mishap.endAfter !== undefined ? {} : { 'content-length': String(body.length) };
  response.writeHead(range === undefined ? 200 : 206, {
    ...headers,
    ...length,
    ...(range !== undefined && contentRange),
  });
  if (request.method === 'HEAD') {
    response.end();
  } else if (mishap.breakAfter !== undefined) {
    response.write(body.subarray(0, mishap.breakAfter), () => setTimeout(() => response.destroy(), 20));
  } else if (mishap.stallAfter !== undefined) {
    response.write(body.subarray(0, mishap.stallAfter), () =>
      setTimeout(() => hub.onStall(request.url!), 50),
    );
  } else if (mishap.endAfter !== undefined) {
    response.end(body.subarray(0, mishap.endAfter));
  } else if (mishap.slowly !== undefined) {
    void sendSlowly(response, body, mishap.slowly);
  } else {
    if (mishap.corrupt) {
      body = body.slice();
      body[body.length >> 1]! ^= 1;
    }
    response.end(body);
  }
}

async function sendSlowly(response: ServerResponse, body: Uint8Array, delayMs: number): Promise<void> {
  const size = Math.ceil(body.length / 10);
  for (let at = 0; at < body.length; at += size) {
    await delay(delayMs);
    response.write(body.subarray(at, at + size));
  }
  response.end();
}

/** Listens on a free port of this computer; `close` ends open connections too. */
export async function listen(server: Server): Promise<{ origin: string; close: () => Promise<void> }> {
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const { port } = server.address() as AddressInfo;
  return {
    origin: `${'setSecureContext' in server ? 'https' : 'http'}://127.0.0.1:${port}`,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        server.closeAllConnections();
      }),
  };
}
