import type { Platform, Thread, ThreadEvents } from './platform.ts';

const PRELUDE = `
const send = (message, transfer) => self.postMessage(message, transfer);
const receive = (handler) => { self.onmessage = (event) => handler(event.data); };
`;

/** The part of a browser's Worker that is used: the DOM types are not those of this project. */
interface BrowserWorker {
  onmessage: ((event: { readonly data: unknown }) => void) | null;
  onerror: ((event: { readonly message?: string; preventDefault(): void }) => void) | null;
  postMessage(message: unknown, transfer: readonly ArrayBuffer[]): void;
  terminate(): void;
}

interface BrowserGlobals {
  readonly crossOriginIsolated?: boolean;
  readonly Worker: new (url: string) => BrowserWorker;
}

const globals = globalThis as unknown as BrowserGlobals;

function startThread(source: string, events: ThreadEvents): Thread {
  const url = URL.createObjectURL(new Blob([PRELUDE, source], { type: 'text/javascript' }));
  const worker = new globals.Worker(url);
  worker.onmessage = ({ data }) => {
    // The script is running, so it has been fetched.
    URL.revokeObjectURL(url);
    events.message(data);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    worker.terminate();
    events.failure(new Error(event.message ?? 'the worker could not be started'));
  };
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer),
    // A page lives as long as it is open.
    keepAlive: () => {},
    stop: async () => {
      worker.onmessage = null;
      worker.onerror = null;
      worker.terminate();
      URL.revokeObjectURL(url);
    },
  };
}

/** Browsers, with Web Workers. */
export const browserPlatform: Platform = {
  // Memory can be shared where SharedArrayBuffer may be posted: that is what isolation allows.
  sharedMemory: globals.crossOriginIsolated === true,
  startThread,
  unlockEngine: () => {},
  // A page cannot tell the engine anything.
  optimizes: false,
  optimizing: (compile) => compile(),
};
