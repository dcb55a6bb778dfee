import type { SelectLogits } from '../targets/executable.ts';
import type { ResolvedSampling } from './sampling-options.ts';
import { largest } from './selection.ts';

/** If more logits than this share are open, all are computed: reading the table in order is faster. */
const MOST = 1 / 4;

/** Lowers the bound of min-p by more than the roundings of the sampler. */
const SLACK = 1e-6;

/**
 * Chooses the logits that can matter to a sampler by what each is at least and at most; undefined where all do:
 * without top-k or min-p, every token has a share in what is drawn from.
 *
 * Greedy choice, top-k and min-p ask for the k largest logits, or those not far below the largest. There are k
 * that are at least the k-th largest lower bound, so that what is below it for sure is not among them. `always`
 * gives tokens that a repetition penalty changes: they are chosen anyway, and their bounds say nothing.
 */
export function chooseLogits(
  { temperature, topK, topP, minP }: ResolvedSampling,
  always: () => readonly number[],
): SelectLogits | undefined {
  const greedy = temperature === 0;
  if (!greedy && topK === 0 && (minP === 0 || topP < 1)) return undefined;
  const k = greedy || topK === 0 ? 1 : topK;
  const below = greedy || topK > 0 ? 0 : temperature * (SLACK - Math.log(minP));
  return (low, high) => {
    if (k >= low.length) return undefined;
    const own = always().filter((id) => id < low.length);
    const floor = kthLargest(own.length === 0 ? low : without(low, own), k) - below;
    if (!Number.isFinite(floor)) return undefined;
    const limit = Math.max(k + own.length, Math.floor(low.length * MOST));
    const ids = new Int32Array(limit);
    const open = new Set(own);
    let count = 0;
    for (let id = 0; id < high.length; id++) {
      // What is not a number stays in, to be found out.
      if (high[id]! < floor && (open.size === 0 || !open.has(id))) continue;
      if (count === limit) return undefined;
      ids[count++] = id;
    }
    return ids.subarray(0, count);
  };
}

function without(low: Float32Array, ids: readonly number[]): Float32Array {
  const rest = low.slice();
  for (const id of ids) rest[id] = Number.NEGATIVE_INFINITY;
  return rest;
}

function kthLargest(values: Float32Array, k: number): number {
  if (k > 1) return largest(values, k).values[k - 1]!;
  let max = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value > max) max = value;
  }
  return max;
}
