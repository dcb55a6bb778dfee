import { setTimeout as delay } from 'node:timers/promises';
import { LutraError } from '../../common/errors.ts';
import type { Patience } from './settings.ts';

/** The outcome of one try: a value, or a failure that a later try may not meet. Final failures are thrown. */
export type Attempt<T> = { readonly ok: true; readonly value: T } | FailedAttempt;

export interface FailedAttempt {
  readonly ok: false;
  readonly failure: LutraError;
  /** At least how long the server asks to wait. */
  readonly waitMs?: number;
  /** Whether the attempt brought something that the next one builds on. */
  readonly progressed?: boolean;
  /** Whether another try would end alike. */
  readonly final?: boolean;
}

const MAX_DELAY_MS = 30_000;
/** A server that asks for more is not waited for. */
const MAX_WAIT_MS = 300_000;

/** The error for work that `signal` ended. */
export function cancelled(signal: AbortSignal): LutraError {
  const { reason } = signal;
  if (reason instanceof LutraError) return reason;
  return new LutraError('cancelled', 'the download was cancelled', {
    hint: 'Start it again to continue where it stopped.',
    cause: reason,
  });
}

/**
 * Tries until it succeeds, is cancelled, or has failed `patience.attempts` times in a row without progress;
 * or has failed for good; then it gives the last failure.
 * @param onWait told of the first failure after which it waits to try again
 */
export async function repeat<T>(
  patience: Patience,
  signal: AbortSignal,
  attempt: () => Promise<Attempt<T>>,
  onWait?: (failure: LutraError) => void,
): Promise<Attempt<T>> {
  let failures = 0;
  let told = false;
  for (;;) {
    if (signal.aborted) throw cancelled(signal);
    const outcome = await attempt();
    if (outcome.ok) return outcome;
    failures = outcome.progressed ? 1 : failures + 1;
    const { waitMs = 0 } = outcome;
    if (outcome.final || failures >= patience.attempts || waitMs > MAX_WAIT_MS) return outcome;
    if (!told) onWait?.(outcome.failure);
    told = true;
    const backoff = Math.min(MAX_DELAY_MS, patience.delayMs * 2 ** (failures - 1)) * (1 + Math.random() / 4);
    await delay(Math.max(backoff, waitMs), undefined, { signal }).catch(() => {
      throw cancelled(signal);
    });
  }
}

/** The value of a successful attempt; throws the failure of another. */
export function unwrap<T>(attempt: Attempt<T>): T {
  if (attempt.ok) return attempt.value;
  throw attempt.failure;
}

/** The wait that a Retry-After header asks for: seconds, or a date (RFC 9110, 10.2.3). */
export function retryAfterMs(header: string | null, now: number): number | undefined {
  if (header === null) return undefined;
  const seconds = Number(header);
  if (header.trim() !== '' && Number.isFinite(seconds)) return Math.max(0, seconds * 1000);
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}
