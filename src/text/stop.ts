import { LutraError } from '../common/errors.ts';

/** Watches streamed text for stop strings and lets through only what cannot be part of one. */
export interface StopFilter {
  /** The text that may be given out now; `stopped` when a stop string is complete, and nothing follows then. */
  push(piece: string): { readonly text: string; readonly stopped: boolean };
  /** What was still held back, when the text ends without a stop string. */
  end(): string;
}

/**
 * The text ends before the stop string that is complete first; of several that end at the same character,
 * before the longest. How the text was cut into pieces does not matter. Throws `usage` on an empty stop string.
 */
export function createStopFilter(stops: readonly string[]): StopFilter {
  for (const stop of stops) {
    if (stop === '') {
      throw new LutraError('usage', 'a stop string is empty', {
        hint: 'Leave it out, or give the text to stop at.',
      });
    }
  }
  let held = '';
  let stopped = false;

  return {
    push(piece) {
      if (stopped) return { text: '', stopped };
      held += piece;
      const start = firstMatch(held, stops);
      if (start !== undefined) {
        const text = held.slice(0, start);
        held = '';
        stopped = true;
        return { text, stopped };
      }
      const keep = possibleBeginning(held, stops);
      const text = held.slice(0, held.length - keep);
      held = held.slice(held.length - keep);
      return { text, stopped };
    },
    end() {
      const text = held;
      held = '';
      return text;
    },
  };
}

/** Where the stop string that ends first begins. */
function firstMatch(text: string, stops: readonly string[]): number | undefined {
  let bestStart: number | undefined;
  let bestEnd = Number.POSITIVE_INFINITY;
  for (const stop of stops) {
    const start = text.indexOf(stop);
    if (start < 0) continue;
    const end = start + stop.length;
    if (end < bestEnd || (end === bestEnd && start < bestStart!)) {
      bestStart = start;
      bestEnd = end;
    }
  }
  return bestStart;
}

/** Length of the longest end of the text with which a stop string begins. */
function possibleBeginning(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) {
        longest = length;
        break;
      }
    }
  }
  return longest;
}
