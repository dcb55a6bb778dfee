import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { temporaryPlace } from '../checkpoint/folders.ts';
import { LutraError } from '../common/errors.ts';
import { type MeasureJob, type MeasureResult, measureResultSchema } from './job.ts';

/** The script beside this file, as it is built. */
const WORKER = fileURLToPath(new URL('./worker.js', import.meta.url));
/** Signals by which people end programs: a kernel's own faults have others. */
const INTERRUPTS: ReadonlySet<string> = new Set(['SIGINT', 'SIGTERM', 'SIGHUP']);
/** What a worker says beyond this is not kept. */
const OUTPUT_LIMIT = 4096;

export interface RunJobOptions {
  readonly timeoutSeconds: number;
  /** Script of the worker; default: the one of this build. */
  readonly worker?: string;
  readonly signal?: AbortSignal;
}

/**
 * Measures in a process of its own, so that a kernel that crashes or hangs harms nothing: after the time limit
 * the process is killed. Throws `cancelled` when the signal says so.
 */
export function runJob(job: MeasureJob, options: RunJobOptions): Promise<MeasureResult> {
  const { timeoutSeconds, worker = WORKER, signal } = options;
  const cancelled = new LutraError('cancelled', 'tuning was cancelled');
  if (signal?.aborted) return Promise.reject(cancelled);
  return new Promise((done, fail) => {
    // A killed worker leaves the code that it compiled.
    const place = temporaryPlace('job');
    const child = fork(worker, [], {
      execArgv: [],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      env: place.env,
    });
    let result: MeasureResult | undefined;
    let late = false;
    let output = '';
    const kill = () => child.kill('SIGKILL');
    const timer = setTimeout(() => {
      late = true;
      kill();
    }, timeoutSeconds * 1000);
    signal?.addEventListener('abort', kill, { once: true });
    child.stderr?.on('data', (text: Buffer) => {
      if (output.length < OUTPUT_LIMIT) output += text.toString('utf8');
    });
    child.on('message', (message) => {
      const parsed = measureResultSchema.safeParse(message);
      result = parsed.success ? parsed.data : { outcome: 'failed', reason: 'the worker gave no result' };
    });
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', kill);
      place.remove();
    };
    child.on('error', (error) => {
      settle();
      fail(new LutraError('environment', `cannot start a process to measure in: ${error.message}`));
    });
    child.on('close', (code, by) => {
      settle();
      // Ctrl-C in a terminal is for the whole group of processes, and may come here first.
      const interrupted = result === undefined && by !== null && INTERRUPTS.has(by);
      const how = by === null ? `ended with code ${code}` : `was ended by ${by}`;
      if (signal?.aborted || interrupted) fail(cancelled);
      else if (result !== undefined) done(result);
      else if (late) done({ outcome: 'timeout', reason: `it took more than ${timeoutSeconds} s` });
      else done({ outcome: 'crashed', reason: `it ${how}: ${output.trim().split('\n').at(-1) ?? ''}` });
    });
    child.send(job);
  });
}
