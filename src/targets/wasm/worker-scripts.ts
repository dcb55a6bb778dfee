/**
 * What worker threads run: scripts of their own, given as text so that they work from any bundler. They
 * find `send` and `receive` defined (see Thread in src/platform).
 */
import { ARGUMENTS_AT, BUFFERS_AT, JOB_AT, MAX_ARGUMENTS, PENDING_AT, TIMES_AT } from './layout.ts';
import { MAX_PAGES, PAGE } from './module.ts';

/** First message to a thread of a team that shares its memory; it answers with `ready`. */
export interface SharedSetup {
  readonly module: unknown;
  readonly memory: unknown;
  /** Names of the exported functions; jobs refer to them by number. */
  readonly functions: readonly string[];
  readonly scratch: number;
  readonly tid: number;
  readonly threads: number;
  /** `performance.timeOrigin` of whoever reads times: threads may have another. */
  readonly timeOrigin: number;
}

/** First message to the one thread of a team that does not. */
export interface UnsharedSetup {
  readonly module: unknown;
  readonly scratch: number;
}

/** What such a thread is asked to do, in this order. */
export interface UnsharedRequest {
  /** Pages that the memory must have. */
  readonly pages: number;
  readonly clear: readonly { readonly at: number; readonly bytes: number }[];
  readonly inputs: readonly { readonly at: number; readonly bytes: Uint8Array }[];
  readonly call?: { readonly fn: string; readonly args: readonly number[] };
  readonly outputs: readonly { readonly at: number; readonly bytes: number }[];
}

export type Reply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'done'; readonly outputs?: readonly Uint8Array[] }
  /** The thread's last words. `memory`: it could not grow. */
  | { readonly kind: 'failure'; readonly message: string; readonly memory?: boolean };

/** Looks at the job counter that many times before it sleeps: about 10 microseconds. */
const SPINS = 2000;

export const SHARED_SCRIPT = `
receive(({ module, memory, functions, scratch, tid, threads, timeOrigin }) => {
  try {
    let noted = 0;
    const mark = () => {
      const [at, room] = new Int32Array(memory.buffer, ${TIMES_AT}, 2);
      if (noted >= room) return;
      const now = performance.timeOrigin - timeOrigin + performance.now();
      new Float64Array(memory.buffer, at, room * threads)[tid * room + noted++] = now;
    };
    const { exports } = new WebAssembly.Instance(module, { env: { memory, scratch, mark } });
    const control = new Int32Array(memory.buffer, 0, ${ARGUMENTS_AT / 4});
    const job = new Float64Array(memory.buffer, ${ARGUMENTS_AT}, ${3 + MAX_ARGUMENTS});
    let seen = 0;
    send({ kind: 'ready' });
    for (;;) {
      for (let i = 0; i < ${SPINS} && Atomics.load(control, ${JOB_AT / 4}) === seen; i++);
      while (Atomics.load(control, ${JOB_AT / 4}) === seen) Atomics.wait(control, ${JOB_AT / 4}, seen);
      seen = Atomics.load(control, ${JOB_AT / 4});
      const team = job[1] === 1;
      if (team || tid === 0) {
        const args = Array.from(job.subarray(3, 3 + job[2]));
        if (team) {
          args.push(tid, threads);
          noted = 0;
          mark();
        }
        exports[functions[job[0]]](...args);
      }
      if (Atomics.sub(control, ${PENDING_AT / 4}, 1) === 1) send({ kind: 'done' });
    }
  } catch (error) {
    send({ kind: 'failure', message: String(error) });
  }
});
`;

export const UNSHARED_SCRIPT = `
let memory, exports;
receive((message) => {
  try {
    if (exports === undefined) {
      memory = new WebAssembly.Memory({ initial: ${BUFFERS_AT / PAGE}, maximum: ${MAX_PAGES} });
      const env = { memory, scratch: message.scratch, mark: () => {} };
      ({ exports } = new WebAssembly.Instance(message.module, { env }));
      send({ kind: 'ready' });
      return;
    }
    const missing = message.pages - memory.buffer.byteLength / ${PAGE};
    if (missing > 0) {
      try {
        memory.grow(missing);
      } catch (error) {
        send({ kind: 'failure', message: String(error), memory: true });
        return;
      }
    }
    const view = (at, bytes) => new Uint8Array(memory.buffer, at, bytes);
    for (const { at, bytes } of message.clear) view(at, bytes).fill(0);
    for (const { at, bytes } of message.inputs) view(at, bytes.length).set(bytes);
    if (message.call) exports[message.call.fn](...message.call.args);
    const outputs = message.outputs.map(({ at, bytes }) => view(at, bytes).slice());
    send({ kind: 'done', outputs }, outputs.map((bytes) => bytes.buffer));
  } catch (error) {
    send({ kind: 'failure', message: String(error) });
  }
});
`;
