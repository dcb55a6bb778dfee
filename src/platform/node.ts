import { setFlagsFromString } from 'node:v8';
import { Worker } from 'node:worker_threads';
import type { Platform, Thread, ThreadEvents } from './platform.ts';

// `process.getBuiltinModule` works whether Node takes the script for a module or not.
const PRELUDE = `
const { parentPort } = process.getBuiltinModule('node:worker_threads');
const send = (message, transfer) => parentPort.postMessage(message, transfer);
const receive = (handler) => parentPort.on('message', handler);
`;

/** First release of Node whose V8 has relaxed SIMD without a flag. */
const RELAXED_SIMD_SINCE = 22;

function startThread(source: string, events: ThreadEvents): Thread {
  // execArgv: loaders and inspectors of the program are not for this script.
  const worker = new Worker(PRELUDE + source, { eval: true, execArgv: [], name: 'lutra' });
  let over = false;
  const fail = (error: Error) => {
    if (over) return;
    over = true;
    events.failure(error);
  };
  worker.on('message', (message: unknown) => {
    if (!over) events.message(message);
  });
  worker.on('error', fail);
  worker.on('exit', (code) => fail(new Error(`the worker thread ended with code ${code}`)));
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer),
    keepAlive: (needed) => {
      if (needed) worker.ref();
      else worker.unref();
    },
    stop: async () => {
      over = true;
      await worker.terminate();
    },
  };
}

/** First release whose V8 joins pairs of 128-bit vectors to 256 bits where it is told to. */
const REVECTORIZE_SINCE = 24;
const REVECTORIZE = 'experimental-wasm-revectorize';

/** Node.js, with its worker threads. */
export const nodePlatform: Platform = {
  sharedMemory: true,
  startThread,
  unlockEngine: () => {
    const major = Number.parseInt(process.versions.node, 10);
    if (major < RELAXED_SIMD_SINCE) setFlagsFromString('--experimental-wasm-relaxed-simd');
    // An experiment of V8's, and for the whole process: what it makes of our code is tested like all code before it
    // runs, and who minds it for other modules can refuse it.
    const refused = process.execArgv.includes(`--no-${REVECTORIZE}`);
    if (process.arch === 'x64' && major >= REVECTORIZE_SINCE && !refused) {
      setFlagsFromString(`--${REVECTORIZE}`);
    }
  },
};
