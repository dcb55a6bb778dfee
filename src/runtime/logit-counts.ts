import type { Logits } from '../targets/executable.ts';
import type { GenerationResult } from './types.ts';

export interface LogitCounts {
  note(logits: Logits): void;
  /** Nothing where no token was drawn, or the head has no bounds to choose logits by. */
  summary(): Pick<GenerationResult, 'head'>;
}

/** Counts how many logits of `vocab` tokens were drawn from; `scans`: whether the head is `exact`. */
export function createLogitCounts(scans: boolean, vocab: number): LogitCounts {
  const chosen: number[] = [];
  let full = 0;
  return {
    note(logits) {
      if (logits instanceof Float32Array) full++;
      else chosen.push(logits.ids.length);
    },
    summary() {
      if (!scans || chosen.length + full === 0) return {};
      const ranked = [...chosen].sort((a, b) => a - b);
      // Where none were chosen, every token took all.
      return { head: { median: ranked[ranked.length >> 1] ?? vocab, max: ranked.at(-1) ?? vocab, full } };
    },
  };
}
