import type { Logits } from '../targets/executable.ts';
import type { GenerationResult } from './types.ts';

export interface LogitCounts {
  note(logits: Logits): void;
  /** Nothing where no token's logits were chosen from. */
  summary(): Pick<GenerationResult, 'head'>;
}

/** Counts how many logits tokens were drawn from. */
export function createLogitCounts(): LogitCounts {
  const chosen: number[] = [];
  let full = 0;
  return {
    note(logits) {
      if (logits instanceof Float32Array) full++;
      else chosen.push(logits.ids.length);
    },
    summary() {
      if (chosen.length === 0) return {};
      const ranked = [...chosen].sort((a, b) => a - b);
      return { head: { median: ranked[ranked.length >> 1]!, max: ranked.at(-1)!, full } };
    },
  };
}
