/** The command line as users get it: built, in a process of its own. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

export interface Finished {
  /** Null when a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly out: string;
  readonly error: string;
}

export interface RunOptions {
  readonly input?: string | Uint8Array;
  readonly env?: Readonly<Record<string, string>>;
}

export interface BuiltCli {
  /** The script to run with Node. */
  readonly main: string;
  /** A folder that is removed at the end; the cache of models is in it. */
  readonly scratch: string;
  start(args: readonly string[], options?: RunOptions): ChildProcess;
  run(args: readonly string[], options?: RunOptions): Promise<Finished>;
  remove(): void;
}

/** Uses the build that LUTRA_TEST_DIST names, as `npm test` does, or builds one of its own. */
export function buildCli(): BuiltCli {
  const scratch = mkdtempSync(join(tmpdir(), 'lutra-cli-test-'));
  const dist = process.env.LUTRA_TEST_DIST ?? buildInto(scratch);
  const main = join(dist, 'cli', 'main.js');
  const cache = join(scratch, 'cache');

  const start = (args: readonly string[], options: RunOptions = {}) => {
    const child = spawn(process.execPath, [main, ...args], {
      env: { ...process.env, LUTRA_CACHE: cache, ...options.env },
    });
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input ?? '');
    return child;
  };
  return {
    main,
    scratch,
    start,
    run: (args, options) => finished(start(args, options)),
    remove: () => rmSync(scratch, { recursive: true, force: true }),
  };
}

function buildInto(scratch: string): string {
  const tsc = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
  const dist = join(scratch, 'dist');
  execFileSync(process.execPath, [tsc, '-p', 'tsconfig.build.json', '--outDir', dist], { cwd: ROOT });
  for (const name of ['node_modules', 'models']) symlinkSync(join(ROOT, name), join(scratch, name));
  writeFileSync(join(scratch, 'package.json'), '{"type":"module"}');
  return dist;
}

/** Waits for the end of a process and of what it writes. */
export function finished(child: ChildProcess): Promise<Finished> {
  let out = '';
  let error = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    error += text;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, out, error }));
  });
}

/** What a process writes, read as a person would: one thing after the other. */
export interface Reader {
  /** Waits for text that matches after what was matched before. */
  until(pattern: RegExp): Promise<void>;
}

export function readFrom(child: ChildProcess): Reader {
  let unread = '';
  let ended = false;
  let wake: () => void = () => undefined;
  child.stdout?.on('data', (text: Buffer | string) => {
    unread += text.toString();
    wake();
  });
  child.once('close', () => {
    ended = true;
    wake();
  });
  return {
    async until(pattern) {
      for (;;) {
        const match = pattern.exec(unread);
        if (match !== null) {
          unread = unread.slice(match.index + match[0].length);
          return;
        }
        if (ended) throw new Error(`ended without ${pattern}: ${JSON.stringify(unread)}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
  };
}
