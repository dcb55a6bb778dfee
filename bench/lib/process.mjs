// @ts-check
/** Measuring processes: one at a time works, the others sleep. */
import { fork, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/**
 * @typedef {{
 *   ask: (op: string, request?: Record<string, unknown>) => Promise<any>,
 *   end: () => Promise<void>,
 *   pid: number,
 * }} Worker
 */

/** @type {Set<import('node:child_process').ChildProcess>} */
const running = new Set();

/** Ends whatever still runs: nothing may measure, or hold gigabytes, after the benchmark was stopped. */
export function endAll() {
  for (const child of running) child.kill('SIGKILL');
}

/**
 * Starts a measuring process.
 * @param {{ node?: string | undefined, script?: string, env?: Record<string, string> }} [options]
 *   `node`: another Node to measure with; `script`: the other side, `child.mjs` by default
 * @returns {Worker}
 */
export function startWorker({ node, script = './child.mjs', env } = {}) {
  const child = fork(fileURLToPath(new URL(script, import.meta.url)), {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    ...(node === undefined ? {} : { execPath: node }),
    env: { ...process.env, ...env },
  });
  running.add(child);
  let complaints = '';
  child.stderr?.on('data', (data) => {
    complaints = (complaints + data).slice(-2000);
  });
  /** @type {{ resolve: (value: any) => void, reject: (error: Error) => void } | undefined} */
  let waiting;
  /** @type {Error | undefined} */
  let over;
  const settle = (/** @type {(w: NonNullable<typeof waiting>) => void} */ act) => {
    const current = waiting;
    waiting = undefined;
    if (current !== undefined) act(current);
  };
  child.on('message', (/** @type {{ value?: unknown, error?: string }} */ answer) =>
    settle(({ resolve, reject }) =>
      answer.error === undefined ? resolve(answer.value) : reject(new Error(answer.error)),
    ),
  );
  const ended = new Promise((resolve) => {
    child.on('error', (error) => {
      over = error;
      settle(({ reject }) => reject(error));
      resolve(undefined);
    });
    child.on('exit', (code, signal) => {
      running.delete(child);
      over ??= new Error(`the measuring process ended by ${signal ?? `code ${code}`}: ${complaints.trim()}`);
      const error = over;
      settle(({ reject }) => reject(error));
      resolve(undefined);
    });
  });
  return {
    pid: child.pid ?? 0,
    ask: (op, request = {}) =>
      new Promise((resolve, reject) => {
        if (over !== undefined) return reject(over);
        waiting = { resolve, reject };
        child.send({ op, ...request }, (error) => {
          if (error) settle((w) => w.reject(error));
        });
      }),
    end: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/**
 * Runs a command to its end and watches the memory of it and of what it starts. Throws when it fails.
 * @param {string} command
 * @param {readonly string[]} args
 * @returns {Promise<{ seconds: number, peakBytes: number, treePeakBytes: number, output: string }>}
 *   `peakBytes`: of the command's own process (VmHWM); `treePeakBytes`: of it and its children together, looked
 *   at twenty times a second. 0 where there is no /proc.
 */
export function runWatched(command, args, env = {}) {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    running.add(child);
    let output = '';
    let complaints = '';
    child.stdout.on('data', (data) => {
      output += data;
    });
    child.stderr.on('data', (data) => {
      complaints = (complaints + data).slice(-2000);
    });
    let peakBytes = 0;
    let treePeakBytes = 0;
    const timer = setInterval(() => {
      const pid = child.pid ?? 0;
      peakBytes = Math.max(peakBytes, statusBytes(pid, 'VmHWM'));
      const tree = descendants(pid).reduce((sum, one) => sum + statusBytes(one, 'VmRSS'), 0);
      treePeakBytes = Math.max(treePeakBytes, tree);
    }, 50);
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      clearInterval(timer);
      running.delete(child);
      if (code === 0)
        resolve({ seconds: (performance.now() - start) / 1000, peakBytes, treePeakBytes, output });
      else
        reject(
          new Error(
            `${command} ${args.join(' ')} ended by ${signal ?? `code ${code}`}: ${complaints.trim()}`,
          ),
        );
    });
  });
}

/** @param {number} pid @param {string} field */
function statusBytes(pid, field) {
  try {
    const match = new RegExp(`^${field}:\\s*(\\d+) kB$`, 'm').exec(
      readFileSync(`/proc/${pid}/status`, 'utf8'),
    );
    return match === null ? 0 : Number(match[1]) * 1024;
  } catch {
    return 0;
  }
}

/** A process and all that come from it. @param {number} pid @returns {number[]} */
function descendants(pid) {
  const found = [pid];
  for (let i = 0; i < found.length; i++) {
    try {
      for (const task of readdirSync(`/proc/${found[i]}/task`)) {
        const children = readFileSync(`/proc/${found[i]}/task/${task}/children`, 'utf8');
        found.push(...children.split(/\s+/).filter(Boolean).map(Number));
      }
    } catch {
      // It ended meanwhile, or there is no /proc.
    }
  }
  return found;
}

/**
 * Runs a script: with it ends what it started, also when it is interrupted; an error is one line and exit code 2.
 * @param {string} name
 * @param {() => Promise<void>} main
 */
export async function runMain(name, main) {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.once(signal, () => {
      endAll();
      process.exit(130);
    });
  }
  process.once('exit', endAll);
  try {
    await main();
  } catch (error) {
    console.error(`${name}: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 2;
  }
}
