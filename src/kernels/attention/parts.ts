/**
 * Where chunks of positions lie that were computed apart and are to be merged. A part is what a chunk adds to a head
 * of a token, `partStride` floats:
 *
 * ```
 * [valueStride] weighted values, [16] partial sums of exponentials, then the largest score and what the weighted
 * values are multiples of
 * ```
 *
 * Parts: [tokens][heads][chunks in sight of one of the tokens].
 */
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, cast, div, int, max, mul, sub } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { valueStride } from '../cache.ts';
import { LANES } from '../lanes.ts';
import { type AttentionShape, CHUNK } from './shape.ts';
import type { ChunkSums } from './softmax.ts';

/** Tokens of a sequence that may be computed in parts. */
export const PART_TOKENS = 16;

const sumsAt = (shape: AttentionShape) => valueStride(shape);
const largestAt = (shape: AttentionShape) => sumsAt(shape) + LANES;
const scaleAt = (shape: AttentionShape) => largestAt(shape) + 1;

function partStride(shape: AttentionShape): number {
  return valueStride(shape) + 2 * LANES;
}

/** Chunks that PART_TOKENS tokens see at most. */
function mostChunks({ context, window = context }: AttentionShape): number {
  // Two positions next to each other may lie in two chunks.
  return Math.min(Math.ceil(context / CHUNK), Math.ceil((window + PART_TOKENS - 2) / CHUNK) + 1);
}

/** Floats that the parts of a token take. */
export function partsSize(shape: AttentionShape): number {
  return shape.heads * mostChunks(shape) * partStride(shape);
}

/** The chunks that tokens at `pos` .. `last` see: the first one's number, and how many. */
export function chunksInSight(b: FunctionBuilder, shape: AttentionShape, pos: Expr, last: Expr) {
  const past = b.let('past', add(div(last, CHUNK), 1));
  if (shape.window === undefined) return { first: int(0), count: past };
  const behind = max(sub(add(pos, 1), shape.window), int(0));
  const first = b.let('firstChunk', div(behind, CHUNK));
  return { first, count: b.let('count', sub(past, first)) };
}

/** Where the part of a head of a token begins; `part` counts chunks from the first in sight. */
export function partStart(shape: AttentionShape, token: Expr, head: Expr, part: Expr): Expr {
  const row = add(mul(token, shape.heads), head);
  return mul(add(mul(row, mostChunks(shape)), part), partStride(shape));
}

/** Stores what the softmax of a chunk left of a row besides its weights. */
export function storeSums(
  b: FunctionBuilder,
  shape: AttentionShape,
  parts: BufferRef,
  to: Expr,
  own: ChunkSums,
): void {
  b.store(parts, add(to, sumsAt(shape)), own.sums);
  b.store(parts, add(to, largestAt(shape)), own.largest);
  b.store(parts, add(to, scaleAt(shape)), own.scale);
}

/** Stores a row's weighted values, which begin at `from`. */
export function storeValues(
  b: FunctionBuilder,
  shape: AttentionShape,
  parts: BufferRef,
  to: Expr,
  partial: BufferRef,
  from: Expr,
): void {
  b.for('i', 0, valueStride(shape), LANES, (i) =>
    b.store(parts, add(to, i), cast(b.load(partial, add(from, i), LANES), 'f32')),
  );
}

/** The sums that `storeSums` stored. */
export function loadSums(
  b: FunctionBuilder,
  shape: AttentionShape,
  parts: BufferRef,
  from: Expr,
): { readonly [K in keyof ChunkSums]: Expr } {
  return {
    largest: b.let('own', b.load(parts, add(from, largestAt(shape)))),
    sums: b.load(parts, add(from, sumsAt(shape)), LANES),
    scale: b.load(parts, add(from, scaleAt(shape))),
  };
}
