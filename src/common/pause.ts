import { LutraError } from './errors.ts';

/** Milliseconds that work may hold up the event loop. */
const LONGEST = 50;

let last = 0;

/**
 * For work of seconds that could do without waiting: lets the event loop turn now and then, so that a signal can come,
 * and throws `cancelled` when it says so.
 */
export async function pause(signal: AbortSignal | undefined, what = 'compilation'): Promise<void> {
  if (performance.now() - last > LONGEST) {
    await new Promise<void>((resolve) => {
      if (typeof setImmediate === 'function') setImmediate(resolve);
      else setTimeout(resolve);
    });
    last = performance.now();
  }
  if (signal?.aborted) throw new LutraError('cancelled', `${what} was cancelled`);
}
