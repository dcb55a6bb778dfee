/** From the scores of a chunk to what its values are multiplied by, and how chunks are merged. */
import type { FunctionBuilder } from '../../loops/builder.ts';
import {
  add,
  cast,
  div,
  float,
  max,
  min,
  mul,
  reduce,
  repeat,
  select,
  slice,
  sub,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { KEY_BLOCK, scaleStart } from '../cache.ts';
import { LANES, laneIndices } from '../lanes.ts';
import { exp } from '../math.ts';
import { forTiles } from '../tiles.ts';
import { FINE, fine } from './arithmetic.ts';
import { type Attention, CHUNK, NOTHING, type Scales, seenBy, type Visit } from './shape.ts';

/** The smallest largest weight that weights are scaled by. */
const SMALLEST_WEIGHT = Math.fround(1e-30);

/** What a row's softmax of a chunk leaves besides its weights. */
export interface ChunkSums {
  readonly largest: Expr;
  /** Of its exponentials, LANES partial ones. */
  readonly sums: Expr;
  /** What the products of weights and values are multiples of. */
  readonly scale: Expr;
}

/** The chunk's scores of a row to weights of its values. */
export function writeSoftmax(a: Attention, visit: Visit, blocks: Expr, row: Expr): ChunkSums {
  const { b, scores, scales } = a;
  const start = b.let('scores', mul(row, CHUNK));
  const peaks = b.var('peaks', float(NOTHING, LANES));
  b.for('block', 0, blocks, 1, (block) => {
    const at = b.let('at', add(start, mul(block, KEY_BLOCK)));
    b.set(peaks, max(peaks, b.load(scores, at, LANES)));
  });
  const largest = b.let('largest', reduce('max', peaks));
  const sums = b.var('sums', float(0, LANES));
  // Two blocks at a time have enough to do while each waits for itself.
  forTiles(b, blocks, 2, (block, count) => {
    const lanes = count * LANES;
    const at = b.let('at', add(start, mul(block, KEY_BLOCK)));
    const power = b.let('power', exp(b, sub(b.load(scores, at, lanes), repeat(largest, lanes))));
    b.store(scores, at, power);
    for (let i = 0; i < lanes; i += LANES) {
      b.set(sums, add(sums, lanes === LANES ? power : slice(power, i, LANES)));
    }
  });
  const scale = scales === undefined ? float(1) : writeWeights(a, scales, visit, blocks, row);
  return { largest, sums, scale };
}

/** The chunk's exponentials of a row, each times the scale of its values, as integers of a scale of their own. */
function writeWeights(a: Attention, scales: Scales, visit: Visit, blocks: Expr, row: Expr): Expr {
  const { b, scores, weights, shape } = a;
  const start = b.let('scores', mul(row, CHUNK));
  const scale = b.let('scale', scaleStart(shape, visit.kvHead, visit.chunk));
  const visible = b.let('visible', seenBy(a, visit, row));
  const peaks = b.var('peaks', float(SMALLEST_WEIGHT, LANES));
  b.for('block', 0, blocks, 1, (block) => {
    const first = b.let('first', mul(block, KEY_BLOCK));
    const at = b.let('at', add(start, first));
    const scaled = mul(b.load(scores, at, LANES), b.load(scales.values, add(scale, first), LANES));
    // Nothing was ever stored behind what is seen.
    const seen = repeat(sub(visible, first), LANES);
    const weight = b.let('weight', select('lt', laneIndices(LANES), seen, scaled, float(0, LANES)));
    b.store(scores, at, weight);
    b.set(peaks, max(peaks, weight));
  });
  const peak = b.let('peak', reduce('max', peaks));
  const factor = b.let('factor', repeat(div(float(FINE), peak), LANES));
  b.for('block', 0, blocks, 1, (block) => {
    const at = b.let('at', add(start, mul(block, KEY_BLOCK)));
    b.store(weights, at, cast(fine(mul(b.load(scores, at, LANES), factor)), 'i16'));
  });
  return b.let('weightScale', mul(peak, float(Math.fround(1 / FINE))));
}

/** By what the sums of before and those of a chunk are multiplied when they are merged, and the largest score then. */
export function mergeFactors(
  b: FunctionBuilder,
  before: Expr,
  own: Expr,
): { readonly peak: Expr; readonly shrink: Expr; readonly grow: Expr } {
  const peak = b.let('peak', max(before, own));
  const less = b.let('less', exp(b, sub(min(before, own), peak)));
  const shrink = b.let('shrink', select('lt', before, own, less, float(1)));
  const grow = b.let('grow', select('lt', before, own, float(1), less));
  return { peak, shrink, grow };
}

/** kept * shrink + own * grow, LANES of them. */
export function merged(kept: Expr, shrink: Expr, own: Expr, grow: Expr): Expr {
  return add(mul(kept, repeat(shrink, LANES)), mul(own, repeat(grow, LANES)));
}
