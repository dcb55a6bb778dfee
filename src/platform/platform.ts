/** What differs between Node and browsers, as far as portable rooms need it. */

/**
 * A worker thread. Its source is a script that finds two functions defined: `receive(handler)`, which
 * calls the handler with each message, and `send(message, transfer)`.
 */
export interface Thread {
  post(message: unknown, transfer?: readonly ArrayBuffer[]): void;
  /** Whether the process must stay alive for this thread. A thread starts out keeping it alive. */
  keepAlive(needed: boolean): void;
  /** Ends the thread wherever it is; afterwards it reports nothing. */
  stop(): Promise<void>;
}

export interface ThreadEvents {
  message(message: unknown): void;
  /** The thread ended by itself: an uncaught error, out of memory. Nothing follows. */
  failure(error: Error): void;
}

export interface Platform {
  /** Whether threads can share memory: always in Node, in browsers on cross-origin isolated pages. */
  readonly sharedMemory: boolean;
  startThread(source: string, events: ThreadEvents): Thread;
  /** Turns on WebAssembly features that the engine has but hides behind flags. Call it before compiling. */
  unlockEngine(): void;
  /** Whether `optimizing` makes other code than the engine does by itself: where that is wrong, the latter may be right. */
  readonly optimizes: boolean;
  /** Runs what compiles a module, and lets the engine meanwhile optimize more than it does by itself, if it can. */
  optimizing<T>(compile: () => Promise<T>): Promise<T>;
}
