import { FunctionBuilder } from '../loops/builder.ts';
import { add, div, float, int, min, mul, reduce, repeat, sub } from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { writeChunk } from './attention/chunk.ts';
import { chunksInSight, loadSums, partStart, storeSums, storeValues } from './attention/parts.ts';
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
import { valueStride } from './cache.ts';
import { fixedKernel } from './fixed.ts';
import { defaultFirst, type Kernel, variations } from './kernel.ts';
import { forPieces, LANES, rowStart } from './lanes.ts';

function build(name: string, shape: AttentionShape, s: AttentionSchedule): LoopFunction {
  const { heads, kvHeads, headDim } = shape;
  const group = heads / kvHeads;
  const stride = valueStride(shape);
  const b = new FunctionBuilder(name);
  const { q, attention: a } = declareAttention(b, shape, s, 'one');
  const parts = b.buffer('parts', 'f32', 'write');
  const pos = b.scalar('pos');

  const { first, count } = chunksInSight(b, shape, pos, pos);
  b.thread('job', mul(count, kvHeads), (job) => {
    const kvHead = b.let('kvHead', div(job, count));
    const part = b.let('part', sub(job, mul(kvHead, count)));
    const chunk = b.let('chunk', mul(add(first, part), CHUNK));
    b.for('head', 0, group, 1, (head) => {
      const from = b.let('at', mul(add(mul(kvHead, group), head), headDim));
      writeQuery(a, q, head, b.let('to', mul(head, stride)), from);
    });
    const ahead = b.let('ahead', add(sub(pos, chunk), 1));
    const visible = b.let('visible', min(ahead, int(CHUNK)));
    const placeOf = (row: Expr) =>
      b.let('part', partStart(shape, int(0), add(mul(kvHead, group), row), part));
    writeChunk(a, { kvHead, rows: int(group), chunk, ahead, visible }, (row, own) => {
      storeSums(b, shape, parts, placeOf(row), own);
    });
    b.for('row', 0, group, 1, (row) => {
      storeValues(b, shape, parts, placeOf(row), a.partial, b.let('from', mul(row, stride)));
    });
  });
  return b.build();
}

const divisors = (n: number) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

/** Vectors of values that one or two rows add up at a time, whatever the registers: what is read in order comes faster. */
const WIDE = 8;

/**
 * Keys are read in the order in which they lie: several blocks at a time are as many streams, and slower both with
 * AVX2 and in WebAssembly. So are values, where few rows share them; where rows fill the registers, they come first.
 */
function defaultSchedule(shape: AttentionShape, machine: Machine): AttentionSchedule {
  const { heads, kvHeads, headDim, cacheElem } = shape;
  const accumulators = accumulatorsOf(machine);
  const rows = divisors(heads / kvHeads).findLast((d) => d <= accumulators) ?? 1;
  const each = Math.max(1, Math.floor(accumulators / rows));
  const few = rows === 1 || rows < accumulators;
  const valueTiles = few ? Math.max(each, Math.floor(WIDE / rows)) : each;
  return {
    tokens: 1,
    rows,
    keyBlocks: 1,
    valueTiles: Math.min(valueTiles, Math.ceil(headDim / LANES)),
    positions: cacheElem === 'i8' ? 64 : 32,
  };
}

function schedules(shape: AttentionShape, machine: Machine): readonly AttentionSchedule[] {
  const chosen = defaultSchedule(shape, machine);
  const rows = divisors(shape.heads / shape.kvHeads);
  const all = [
    ...variations(chosen, { rows, keyBlocks: [2] }),
    ...variations(chosen, { valueTiles: [1, 2, 4], positions: [16, 32, 64] }),
  ];
  const most = 2 * accumulatorsOf(machine);
  return defaultFirst(
    chosen,
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

/**
 * Second half: the parts of each head merged in order, with the bits that `attention` gives; of several tokens, where
 * `attention` left parts.
 */
export const attentionMerge = fixedKernel<AttentionShape>('attention.merge', (b, shape) => {
  const { heads, headDim } = shape;
  const stride = valueStride(shape);
  const parts = b.buffer('parts', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  const pos = b.scalar('pos');
  const weighted = b.local('weighted', 'f32', stride);
  const { first } = chunksInSight(b, shape, pos, pos);
  b.thread('job', mul(n, heads), (job) => {
    const token = b.let('token', div(job, heads));
    const head = b.let('head', sub(job, mul(token, heads)));
    const position = b.let('position', add(pos, token));
    const seen = chunksInSight(b, shape, position, position);
    const before = shape.window === undefined ? int(0) : b.let('unseen', sub(seen.first, first));
    const largest = b.var('largest', float(NOTHING));
    const total = b.var('total', float(0, LANES));
    b.for('i', 0, stride, LANES, (i) => b.store(weighted, i, float(0, LANES)));
    b.for('part', 0, seen.count, 1, (part) => {
      const from = b.let('from', partStart(shape, token, head, add(before, part)));
      const own = loadSums(b, shape, parts, from);
      const { peak, shrink, grow } = mergeFactors(b, b.let('before', largest), own.largest);
      b.set(largest, peak);
      b.set(total, merged(total, shrink, own.sums, grow));
      const scaled = b.let('scaled', mul(grow, own.scale));
      b.for('i', 0, stride, LANES, (i) => {
        const kept = b.load(weighted, i, LANES);
        b.store(weighted, i, merged(kept, shrink, b.load(parts, add(from, i), LANES), scaled));
      });
    });
    const share = b.let('share', div(float(1), reduce('add', total)));
    const at = b.let('at', add(rowStart(b, token, heads * headDim), mul(head, headDim)));
    forPieces(b, headDim, LANES, (i, lanes) => {
      b.store(out, add(at, i), mul(b.load(weighted, i, lanes), repeat(share, lanes)));
    });
  });
});
