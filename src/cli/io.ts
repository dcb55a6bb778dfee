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
  /** Ends the process at once, with the exit code of a cancelled command. */
  abandon(): void;
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
    abandon: () => process.exit(130),
  };
}

/** One Ctrl-C may come twice: npm sends on to its child what the terminal has sent already. */
const ECHO_MS = 500;
/** When work that was to end has not, a person is told how to end it. */
const PATIENCE_MS = 1000;

/** Runs `work` with a signal that Ctrl-C aborts. A second Ctrl-C does not wait for the work to end cleanly. */
export async function interruptible<T>(
  io: Io,
  work: (signal: AbortSignal) => Promise<T>,
  now: () => number = () => performance.now(),
): Promise<T> {
  const controller = new AbortController();
  let first: number | undefined;
  let timer: NodeJS.Timeout | undefined;
  const stopListening = io.onInterrupt(() => {
    if (first !== undefined) {
      if (now() - first < ECHO_MS) return;
      io.error('lutra: ended at once; what was half-written may remain, in names that hold ".partial"\n');
      io.abandon();
      return;
    }
    first = now();
    controller.abort();
    if (!io.errorIsTerminal) return;
    timer = setTimeout(() => io.error('\nlutra: stopping; Ctrl-C again ends at once\n'), PATIENCE_MS);
    timer.unref();
  });
  try {
    return await work(controller.signal);
  } finally {
    clearTimeout(timer);
    stopListening();
  }
}
