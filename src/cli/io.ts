/** Where a command reads and writes, so that commands run in tests without a process of their own. */
export interface Io {
  readonly input: AsyncIterable<Uint8Array>;
  readonly inputIsTerminal: boolean;
  readonly errorIsTerminal: boolean;
  /** Writes to standard output: results only. */
  out(text: string): void;
  /** Writes to standard error: everything else. */
  error(text: string): void;
  /** Calls `listener` when the user wants the work to end (Ctrl-C); returns how to stop listening. */
  onInterrupt(listener: () => void): () => void;
}

/** The process's own streams and signals. */
export function processIo(): Io {
  return {
    input: process.stdin,
    inputIsTerminal: process.stdin.isTTY === true,
    errorIsTerminal: process.stderr.isTTY === true,
    out: (text) => void process.stdout.write(text),
    error: (text) => void process.stderr.write(text),
    onInterrupt: (listener) => {
      const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
      for (const signal of signals) process.on(signal, listener);
      return () => {
        for (const signal of signals) process.off(signal, listener);
      };
    },
  };
}

/** Runs `work` with a signal that Ctrl-C aborts. */
export async function interruptible<T>(io: Io, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stopListening = io.onInterrupt(() => controller.abort());
  try {
    return await work(controller.signal);
  } finally {
    stopListening();
  }
}
