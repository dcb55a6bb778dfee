import { setFlagsFromString } from 'node:v8';
import { Worker } from 'node:worker_threads';
import type { Platform, Thread, ThreadEvents } from './platform.ts';

// `process.getBuiltinModule` works whether Node takes the script for a module or not.
const PRELUDE = `
const { parentPort } = process.getBuiltinModule('node:worker_threads');
const send = (message, transfer) => parentPort.postMessage(message, transfer);
const receive = (handler) => parentPort.on('message', handler);
`;

const MAJOR = Number.parseInt(process.versions.node, 10);

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
const JOINS_VECTORS_SINCE = 24;

const OPTIMIZES = process.arch === 'x64' && MAJOR >= JOINS_VECTORS_SINCE;

/**
 * V8's flags for the time a module is compiled. Joining vectors is an experiment of V8's, so that no other module of
 * the process may be compiled with it: ours is therefore optimized as a whole before its promise resolves, instead of
 * function by function as they run. What comes out is tested like all code before it is used.
 */
const WHILE_COMPILING = [
  'experimental-wasm-revectorize',
  'no-liftoff',
  'no-wasm-dynamic-tiering',
  'no-wasm-lazy-compilation',
  // There are no counts of calls to inline by.
  'no-wasm-inlining',
  'no-wasm-inlining-call-indirect',
];

const opposite = (flag: string) => (flag.startsWith('no-') ? flag.slice(3) : `no-${flag}`);

let compiling = 0;

async function optimizing<T>(compile: () => Promise<T>): Promise<T> {
  if (!OPTIMIZES) return compile();
  // What the process was started with stays.
  const flags = WHILE_COMPILING.filter(
    (flag) => !process.execArgv.some((arg) => arg === `--${flag}` || arg === `--${opposite(flag)}`),
  );
  if (compiling++ === 0) for (const flag of flags) setFlagsFromString(`--${flag}`);
  // Compiling everything at once does not keep a process alive by itself.
  const alive = setInterval(() => {}, 1 << 30);
  try {
    return await compile();
  } finally {
    clearInterval(alive);
    if (--compiling === 0) for (const flag of flags) setFlagsFromString(`--${opposite(flag)}`);
  }
}

/** Node.js, with its worker threads. */
export const nodePlatform: Platform = {
  sharedMemory: true,
  startThread,
  unlockEngine: () => {
    if (MAJOR < RELAXED_SIMD_SINCE) setFlagsFromString('--experimental-wasm-relaxed-simd');
  },
  optimizes: OPTIMIZES,
  optimizing,
};
