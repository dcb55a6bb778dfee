/**
 * Threads on one shared memory. They wait in `Atomics.wait` for the job counter to change, so that a step
 * starts within microseconds; the last one to finish says so by a message, so that the caller's event loop
 * stays free meanwhile. (Atomics.waitAsync is no quicker in Node, and would not keep the process alive.)
 */
import { LutraError } from '../../common/errors.ts';
import type { Platform } from '../../platform/platform.ts';
import { type CompiledModule, engine, type Memory } from './engine.ts';
import { ARGUMENTS_AT, JOB_AT, MAX_ARGUMENTS, PENDING_AT } from './layout.ts';
import { MAX_PAGES, PAGE } from './module.ts';
import { type Job, noMemory, PIECE, type Team } from './team.ts';
import { SHARED_SCRIPT, type SharedSetup } from './worker-scripts.ts';
import { startWorkers } from './workers.ts';

export interface SharedTeamOptions {
  readonly platform: Platform;
  readonly module: CompiledModule;
  readonly threads: number;
  /** Where each thread's scratch memory begins. */
  readonly scratch: (tid: number) => number;
  /** The memory must reach this far from the start. */
  readonly end: number;
}

/** Pieces of a file read at a time. Most of reading is copying and clearing pages, which several processors share. */
const READERS = 4;

function newMemory(end: number): Memory {
  try {
    const initial = Math.ceil(end / PAGE);
    return new engine.Memory({ initial, maximum: MAX_PAGES, shared: true });
  } catch (error) {
    throw noMemory(end, error);
  }
}

export async function startSharedTeam(options: SharedTeamOptions): Promise<Team> {
  const { platform, module, threads } = options;
  const memory = newMemory(options.end);
  const control = new Int32Array(memory.buffer, 0, ARGUMENTS_AT / 4);
  const description = new Float64Array(memory.buffer, ARGUMENTS_AT, 3 + MAX_ARGUMENTS);
  const functions = engine.Module.exports(module).map(({ name }) => name);
  const setups = Array.from(
    { length: threads },
    (_, tid): SharedSetup => ({
      module,
      memory,
      functions,
      scratch: options.scratch(tid),
      tid,
      threads,
      timeOrigin: performance.timeOrigin,
    }),
  );
  const workers = await startWorkers(platform, SHARED_SCRIPT, setups);
  const bytesAt = (at: number, bytes: number) => new Uint8Array(memory.buffer, at, bytes);

  const start = ({ fn, team, args }: Job) => {
    const index = functions.indexOf(fn);
    if (index < 0) throw new LutraError('internal', `wasm: the module has no function ${fn}`);
    description.set([index, team ? 1 : 0, args.length, ...args]);
    Atomics.store(control, PENDING_AT / 4, threads);
    Atomics.add(control, JOB_AT / 4, 1);
    Atomics.notify(control, JOB_AT / 4);
  };

  return {
    threads,
    ensure: (end) => {
      const missing = Math.ceil((end - memory.buffer.byteLength) / PAGE);
      if (missing <= 0) return;
      try {
        memory.grow(missing);
      } catch (error) {
        throw noMemory(end, error);
      }
    },
    clear: (at, bytes) => {
      bytesAt(at, bytes).fill(0);
    },
    fill: async (at, bytes, read) => {
      let next = 0;
      const readPieces = async () => {
        while (next < bytes) {
          const offset = next;
          next += PIECE;
          await read(offset, bytesAt(at + offset, Math.min(PIECE, bytes - offset)));
        }
      };
      await Promise.all(Array.from({ length: READERS }, readPieces));
    },
    run: async (job) => {
      for (const { at, bytes } of job.inputs) bytesAt(at, bytes.length).set(bytes);
      await workers.ask(() => start(job));
      for (const { at, into } of job.outputs) into.set(bytesAt(at, into.length));
    },
    close: () => workers.stop(),
  };
}
