import type { Progress } from '../runtime/types.ts';
import { type Io, interruptible } from './io.ts';

/** A bar on standard error while long work goes on; nothing where standard error is not a terminal. */
export interface ProgressBar {
  readonly update: (progress: Progress) => void;
  /** Removes the bar, so that other text can be written. */
  clear(): void;
  /** Writes a line that a person should see, terminal or not. */
  readonly warn: (message: string) => void;
}

const WIDTH = 30;
const INTERVAL_MS = 100;
const ERASE_LINE = '\r\x1b[K';

export function createProgressBar(io: Io, now: () => number = () => performance.now()): ProgressBar {
  let shown = false;
  let last = Number.NEGATIVE_INFINITY;
  let stage = '';
  const clear = () => {
    if (shown) io.error(ERASE_LINE);
    shown = false;
    last = Number.NEGATIVE_INFINITY;
  };
  return {
    update(progress) {
      if (!io.errorIsTerminal) return;
      const time = now();
      if (progress.stage === stage && progress.done < progress.total && time - last < INTERVAL_MS) return;
      last = time;
      stage = progress.stage;
      shown = true;
      io.error(`${ERASE_LINE}${renderBar(progress)}`);
    },
    clear,
    warn(message) {
      clear();
      io.error(`lutra: warning: ${message}\n`);
    },
  };
}

/** What work that takes long is given, as options of the API. */
interface WorkOptions {
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress) => void;
  readonly onWarning: (message: string) => void;
}

/** Does a command's long work under a progress bar, until Ctrl-C ends it; what it made, and how long that took. */
export async function withProgress<T>(
  io: Io,
  work: (options: WorkOptions) => Promise<T>,
): Promise<{ readonly made: T; readonly seconds: number }> {
  const start = performance.now();
  const bar = createProgressBar(io);
  const made = await interruptible(io, (signal) =>
    work({ signal, onProgress: bar.update, onWarning: bar.warn }),
  ).finally(() => bar.clear());
  return { made, seconds: Number(((performance.now() - start) / 1000).toFixed(3)) };
}

/** `compile  [==========>         ]  37%` */
export function renderBar({ stage, done, total }: Progress): string {
  const fraction = total > 0 ? Math.min(Math.max(done / total, 0), 1) : 0;
  const filled = Math.round(fraction * WIDTH);
  const bar = filled === WIDTH ? '='.repeat(WIDTH) : `${'='.repeat(filled)}>`.padEnd(WIDTH);
  return `${stage.padEnd(9)} [${bar}] ${String(Math.floor(fraction * 100)).padStart(3)}%`;
}
