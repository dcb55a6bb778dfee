import { FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  and,
  cast,
  compare,
  div,
  float,
  int,
  max,
  min,
  mul,
  reduce,
  repeat,
  select,
  shift,
  sub,
} from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { forSeeing, writeChunk } from './attention/chunk.ts';
import { chunksInSight, partStart, storeSums, storeValues } from './attention/parts.ts';
import { writeQuery } from './attention/query.ts';
import {
  type AttentionSchedule,
  type AttentionShape,
  accumulatorsOf,
  CHUNK,
  clear,
  declareAttention,
  NOTHING,
  type Visit,
} from './attention/shape.ts';
import { type ChunkSums, merged, mergeFactors } from './attention/softmax.ts';
import { valueStride } from './cache.ts';
import { defaultFirst, type Kernel } from './kernel.ts';
import { forPieces, LANES, rowStart } from './lanes.ts';

function build(name: string, shape: AttentionShape, s: AttentionSchedule): LoopFunction {
  const { heads, kvHeads, headDim } = shape;
  const group = heads / kvHeads;
  const stride = valueStride(shape);
  const most = s.tokens * group;
  const b = new FunctionBuilder(name);
  const { q, attention: a } = declareAttention(b, shape, s, 'many');
  /** Per row, of all chunks so far: the largest score, the sums of exponentials, the weighted values. */
  const largest = b.local('largest', 'f32', most);
  const total = b.local('total', 'f32', most * LANES);
  const weighted = b.local('weighted', 'f32', most * stride);
  /** [rows][2]: what weighted values of before and of the chunk are multiplied by when they are merged. */
  const factors = b.local('factors', 'f32', most * 2);
  const parts = b.buffer('parts', 'f32', 'write');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  const pos = b.scalar('pos');
  const isApart = b.scalar('apart');
  const apart = compare('eq', isApart, int(1));

  /** Adds a chunk to those before, or leaves it as parts. */
  const visitChunk = (visit: Visit, placeOf: (row: Expr) => Expr) => {
    const merge = (row: Expr, own: ChunkSums) => {
      const { peak, shrink, grow } = mergeFactors(b, b.let('before', b.load(largest, row)), own.largest);
      b.store(largest, row, peak);
      b.store(factors, mul(row, 2), shrink);
      b.store(factors, add(mul(row, 2), 1), mul(grow, own.scale));
      const at = b.let('at', mul(row, LANES));
      b.store(total, at, merged(b.load(total, at, LANES), shrink, own.sums, grow));
    };
    writeChunk(a, visit, (row, own) => {
      b.if(
        apart,
        () => storeSums(b, shape, parts, placeOf(row), own),
        () => merge(row, own),
      );
    });
    const mergeValues = (row: Expr) => {
      const shrink = b.let('shrink', b.load(factors, mul(row, 2)));
      const grow = b.let('grow', b.load(factors, add(mul(row, 2), 1)));
      const start = b.let('start', mul(row, stride));
      b.for('i', 0, stride, LANES, (i) => {
        const at = b.let('at', add(start, i));
        const own = cast(b.load(a.partial, at, LANES), 'f32');
        b.store(weighted, at, merged(b.load(weighted, at, LANES), shrink, own, grow));
      });
    };
    forSeeing(a, visit, (row) => {
      b.if(
        apart,
        () => storeValues(b, shape, parts, placeOf(row), a.partial, b.let('from', mul(row, stride))),
        () => mergeValues(row),
      );
    });
  };

  const tiles = s.tokens === 1 ? n : b.let('tiles', div(add(n, s.tokens - 1), s.tokens));
  const inSight = chunksInSight(b, shape, pos, sub(add(pos, n), 1));
  const pieces = b.let('pieces', select('eq', isApart, int(1), inSight.count, int(1)));
  b.thread('job', mul(mul(tiles, kvHeads), pieces), (job) => {
    const ofHead = b.let('ofHead', div(job, pieces));
    const piece = b.let('piece', sub(job, mul(ofHead, pieces)));
    const kvHead = b.let('kvHead', div(ofHead, tiles));
    const turn = b.let('turn', sub(ofHead, mul(kvHead, tiles)));
    const half = b.let('half', shift('right', turn, 1));
    // Later tokens see more: taking tiles from both ends in turn gives threads equal work.
    const tile = select('eq', and(turn, 1), int(0), half, sub(sub(tiles, 1), half));
    const first = b.let('first', mul(tile, s.tokens));
    const count = s.tokens === 1 ? int(1) : b.let('count', min(sub(n, first), int(s.tokens)));
    const rows = b.let('rows', mul(count, group));
    const ofGroup = b.let('ofGroup', mul(kvHead, group * headDim));
    const forStates = (body: (row: Expr, at: Expr) => void) =>
      b.for('token', 0, count, 1, (token) => {
        b.for('head', 0, group, 1, (head) => {
          const at = add(add(rowStart(b, add(first, token), heads * headDim), ofGroup), mul(head, headDim));
          body(b.let('state', add(mul(token, group), head)), b.let('at', at));
        });
      });

    forStates((row, at) => {
      b.store(largest, row, float(NOTHING));
      b.store(total, mul(row, LANES), float(0, LANES));
      const to = b.let('to', mul(row, stride));
      clear(b, weighted, to, stride / LANES);
      writeQuery(a, q, row, to, at);
    });
    const start = b.let('start', add(pos, first));
    const end = b.let('end', add(start, count));
    // Rows that see nothing of the first chunk weigh all of it alike, until a chunk with scores wipes that out.
    const behind = b.let('behind', sub(add(start, 1), shape.window ?? 0));
    const firstChunk =
      shape.window === undefined ? int(0) : b.let('firstChunk', mul(div(max(behind, int(0)), CHUNK), CHUNK));
    const pieceStart = b.let('pieceStart', mul(add(inSight.first, piece), CHUNK));
    const from = b.let('from', select('eq', isApart, int(1), max(pieceStart, firstChunk), firstChunk));
    const to = b.let('to', select('eq', isApart, int(1), min(end, add(pieceStart, CHUNK)), end));
    b.for('chunk', from, to, CHUNK, (chunk) => {
      const ahead = b.let('ahead', add(sub(start, chunk), 1));
      const visible = b.let('visible', min(sub(end, chunk), int(CHUNK)));
      visitChunk({ kvHead, rows, chunk, ahead, visible }, (row) => {
        const token = b.let('token', div(row, group));
        const head = add(mul(kvHead, group), sub(row, mul(token, group)));
        return b.let('part', partStart(shape, add(first, token), head, piece));
      });
    });
    const finish = () =>
      forStates((row, at) => {
        const sum = reduce('add', b.load(total, mul(row, LANES), LANES));
        const share = b.let('share', div(float(1), sum));
        const from = b.let('from', mul(row, stride));
        forPieces(b, headDim, LANES, (i, lanes) => {
          b.store(out, add(at, i), mul(b.load(weighted, add(from, i), lanes), repeat(share, lanes)));
        });
      });
    b.if(compare('eq', isApart, int(0)), finish);
  });
  return b.build();
}

/** Rows of a job: as many as share a block of keys in the nearest cache with what is computed of them. */
const JOB_ROWS = 32;

function defaultSchedule(shape: AttentionShape, machine: Machine): AttentionSchedule {
  const { heads, kvHeads, headDim } = shape;
  const group = heads / kvHeads;
  const rows = accumulatorsOf(machine);
  return {
    tokens: Math.max(1, Math.floor(JOB_ROWS / group)),
    rows,
    keyBlocks: 1,
    valueTiles: Math.min(1, Math.ceil(headDim / LANES)),
    positions: 32,
  };
}

function schedules(shape: AttentionShape, machine: Machine): readonly AttentionSchedule[] {
  const group = shape.heads / shape.kvHeads;
  const all = [8, 32].flatMap((jobRows) =>
    [2, 4, 6].flatMap((rows) =>
      [1, 2].flatMap((each) =>
        [16, 64].map((positions) => ({
          tokens: Math.max(1, Math.floor(jobRows / group)),
          rows,
          keyBlocks: each,
          valueTiles: each,
          positions,
        })),
      ),
    ),
  );
  const most = 2 * accumulatorsOf(machine);
  return defaultFirst(
    defaultSchedule(shape, machine),
    all.filter((s) => s.rows * s.keyBlocks <= most),
  );
}

/**
 * softmax(q k / sqrt(headDim)) v over the positions up to each token's own, in f32, chunk by chunk: each is
 * softmaxed by itself and merged into those before (Milakov and Gimelshein 2018; Dao et al. 2022). With an int8
 * cache, queries and weights become integers of 16 bits, and products are exact. For a token at a time there is
 * `attention.parts`. With `apart` 1, chunks are left to `attention.merge`, and threads share them too: up to PART_TOKENS
 * tokens are too few for heads alone to be work for all threads.
 */
export const attention: Kernel<AttentionShape, AttentionSchedule> = {
  op: 'attention',
  family: 'default',
  defaultSchedule,
  schedules,
  build,
};
