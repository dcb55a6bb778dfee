import { FunctionBuilder } from '../loops/builder.ts';
import { add, cast, div, float, int, max, min, mul, reduce, repeat, sub } from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { writeChunk } from './attention/chunk.ts';
import { writeQuery } from './attention/query.ts';
import {
  type AttentionSchedule,
  type AttentionShape,
  accumulatorsOf,
  CHUNK,
  declareAttention,
  NOTHING,
} from './attention/shape.ts';
import { merged, mergeFactors } from './attention/softmax.ts';
import { KEY_BLOCK, keyBlockStart, valueStride } from './cache.ts';
import { fixedKernel } from './fixed.ts';
import { defaultFirst, type Kernel, variations } from './kernel.ts';
import { forPieces, LANES } from './lanes.ts';

/*
A part is what a chunk of positions adds to a head of one token, `partStride` floats:
  [valueStride] weighted values, [16] partial sums of exponentials, then the largest score and what the weighted
  values are multiples of. Parts: [heads][chunks in sight].
*/
const SUMS = (shape: AttentionShape) => valueStride(shape);
const LARGEST = (shape: AttentionShape) => SUMS(shape) + LANES;
const SCALE = (shape: AttentionShape) => LARGEST(shape) + 1;

function partStride(shape: AttentionShape): number {
  return valueStride(shape) + 2 * LANES;
}

/** Chunks that a token sees at most. */
function mostChunks({ context, window = context }: AttentionShape): number {
  // A window of two positions may lie in two chunks.
  return Math.min(Math.ceil(context / CHUNK), Math.ceil((window - 1) / CHUNK) + 1);
}

/** Floats that the parts of a token take. */
export function partsSize(shape: AttentionShape): number {
  return shape.heads * mostChunks(shape) * partStride(shape);
}

/** The chunks that the token at `pos` sees: the first one's number, and how many. */
function chunksInSight(b: FunctionBuilder, shape: AttentionShape, pos: Expr) {
  const past = b.let('past', add(div(pos, CHUNK), 1));
  if (shape.window === undefined) return { first: int(0), count: past };
  const behind = max(sub(add(pos, 1), shape.window), int(0));
  const first = b.let('firstChunk', div(behind, CHUNK));
  return { first, count: b.let('count', sub(past, first)) };
}

function partStart(shape: AttentionShape, head: Expr, part: Expr): Expr {
  return mul(add(mul(head, mostChunks(shape)), part), partStride(shape));
}

function build(name: string, shape: AttentionShape, s: AttentionSchedule): LoopFunction {
  const { heads, kvHeads, headDim } = shape;
  const group = heads / kvHeads;
  const stride = valueStride(shape);
  const b = new FunctionBuilder(name);
  const { q, attention: a } = declareAttention(b, shape, s, 'one');
  const parts = b.buffer('parts', 'f32', 'write');
  const pos = b.scalar('pos');

  const { first, count } = chunksInSight(b, shape, pos);
  b.thread('job', mul(count, kvHeads), (job) => {
    const kvHead = b.let('kvHead', div(job, count));
    const part = b.let('part', sub(job, mul(kvHead, count)));
    const chunk = b.let('chunk', mul(add(first, part), CHUNK));
    b.for('head', 0, group, 1, (head) => {
      const from = b.let('at', mul(add(mul(kvHead, group), head), headDim));
      writeQuery(a, q, head, b.let('to', mul(head, stride)), from);
    });
    const next = b.let('next', add(job, 1));
    const nextHead = b.let('nextHead', div(next, count));
    const nextChunk = add(first, sub(next, mul(nextHead, count)));
    const nextKeys = b.let('nextKeys', keyBlockStart(shape, nextHead, mul(nextChunk, CHUNK / KEY_BLOCK)));
    const ahead = b.let('ahead', add(sub(pos, chunk), 1));
    const visible = b.let('visible', min(ahead, int(CHUNK)));
    const placeOf = (row: Expr) => b.let('part', partStart(shape, add(mul(kvHead, group), row), part));
    writeChunk(a, { kvHead, rows: int(group), chunk, ahead, visible, nextKeys }, (row, own) => {
      const to = placeOf(row);
      b.store(parts, add(to, SUMS(shape)), own.sums);
      b.store(parts, add(to, LARGEST(shape)), own.largest);
      b.store(parts, add(to, SCALE(shape)), own.scale);
    });
    b.for('row', 0, group, 1, (row) => {
      const to = placeOf(row);
      const from = b.let('from', mul(row, stride));
      b.for('i', 0, stride, LANES, (i) =>
        b.store(parts, add(to, i), cast(b.load(a.partial, add(from, i), LANES), 'f32')),
      );
    });
  });
  return b.build();
}

const divisors = (n: number) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

function defaultSchedule(shape: AttentionShape, machine: Machine): AttentionSchedule {
  const { heads, kvHeads, headDim } = shape;
  const accumulators = accumulatorsOf(machine);
  const rows = divisors(heads / kvHeads).findLast((d) => d <= accumulators) ?? 1;
  const each = Math.max(1, Math.floor(accumulators / rows));
  return {
    tokens: 1,
    rows,
    keyBlocks: Math.min(each, 4),
    valueTiles: Math.min(each, Math.ceil(headDim / LANES)),
    positions: 32,
  };
}

function schedules(shape: AttentionShape, machine: Machine): readonly AttentionSchedule[] {
  const chosen = defaultSchedule(shape, machine);
  const all = [
    ...variations(chosen, { rows: divisors(shape.heads / shape.kvHeads), keyBlocks: [1, 2] }),
    ...variations(chosen, { valueTiles: [1, 2], positions: [16, 64] }),
  ];
  const most = 2 * accumulatorsOf(machine);
  return defaultFirst(
    defaultSchedule(shape, machine),
    all.filter((s) => s.rows * Math.max(s.keyBlocks, s.valueTiles) <= most),
  );
}

/**
 * Attention of one token, first half: what every chunk of positions adds to every head. Threads share heads of keys
 * and values and chunks alike, so that their number need not divide that of heads.
 */
export const attentionParts: Kernel<AttentionShape, AttentionSchedule> = {
  op: 'attention.parts',
  family: 'default',
  defaultSchedule,
  schedules,
  build,
};

/** Second half: the parts of each head merged in order, with the bits that `attention` gives. */
export const attentionMerge = fixedKernel<AttentionShape>('attention.merge', (b, shape) => {
  const { heads, headDim } = shape;
  const stride = valueStride(shape);
  const parts = b.buffer('parts', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const pos = b.scalar('pos');
  const weighted = b.local('weighted', 'f32', stride);
  const { count } = chunksInSight(b, shape, pos);
  b.thread('head', heads, (head) => {
    const largest = b.var('largest', float(NOTHING));
    const total = b.var('total', float(0, LANES));
    b.for('i', 0, stride, LANES, (i) => b.store(weighted, i, float(0, LANES)));
    b.for('part', 0, count, 1, (part) => {
      const from = b.let('from', partStart(shape, head, part));
      const own = b.let('own', b.load(parts, add(from, LARGEST(shape))));
      const { peak, shrink, grow } = mergeFactors(b, b.let('before', largest), own);
      b.set(largest, peak);
      b.set(total, merged(total, shrink, b.load(parts, add(from, SUMS(shape)), LANES), grow));
      const scaled = b.let('scaled', mul(grow, b.load(parts, add(from, SCALE(shape)))));
      b.for('i', 0, stride, LANES, (i) => {
        const kept = b.load(weighted, i, LANES);
        b.store(weighted, i, merged(kept, shrink, b.load(parts, add(from, i), LANES), scaled));
      });
    });
    const share = b.let('share', div(float(1), reduce('add', total)));
    const at = b.let('at', mul(head, headDim));
    forPieces(b, headDim, LANES, (i, lanes) => {
      b.store(out, add(at, i), mul(b.load(weighted, i, lanes), repeat(share, lanes)));
    });
  });
});
