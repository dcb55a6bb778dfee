import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  and,
  cast,
  compare,
  constant,
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
  vector,
} from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { type CacheShape, KEY_BLOCK, keyBlockStart, valueStart, valueStride } from './cache.ts';
import { defaultFirst, type Kernel } from './kernel.ts';
import { forPieces, LANES, laneIndices, rowStart } from './lanes.ts';
import { exp } from './math.ts';
import { forTiles } from './tiles.ts';

export type AttentionShape = CacheShape;

export type AttentionSchedule = {
  /** Tokens that go through a chunk of the cache together. */
  readonly tokens: number;
  /** Heads in registers at a time; divides the heads that share a key/value head. */
  readonly heads: number;
  /** Blocks of 16 keys in registers at a time. */
  readonly keyBlocks: number;
  /** Vectors of 16 value elements in registers at a time. */
  readonly valueTiles: number;
};

/**
 * Positions whose scores are computed before their softmax is added to the running one. Part of the meaning of
 * the kernel: chunks begin at multiples of it, whatever the tokens of a call are.
 */
export const CHUNK = 256;

/** Scores of positions that a token must not see, and the largest score before there is any. */
const NOTHING = Math.fround(-1e30);

interface Attention {
  readonly b: FunctionBuilder;
  readonly shape: AttentionShape;
  readonly s: AttentionSchedule;
  /** Heads that share a key/value head. */
  readonly group: number;
  readonly q: BufferRef;
  readonly keys: BufferRef;
  readonly values: BufferRef;
  /** [group][CHUNK]: scores, then their exponentials. */
  readonly scores: BufferRef;
  /** [group]: by how much sums of earlier chunks shrink. */
  readonly shrink: BufferRef;
  /** Per token and head of the job: the largest score, the sum of exponentials (16 partial ones), the weighted values. */
  readonly largest: BufferRef;
  readonly total: BufferRef;
  readonly weighted: BufferRef;
}

/** A token of the job at work on a chunk. */
interface Visit {
  readonly kvHead: Expr;
  /** First position of the chunk, and how many of its positions the token sees: at least 1. */
  readonly chunk: Expr;
  readonly visible: Expr;
  readonly blocks: Expr;
  /** Index of the first query element of the group. */
  readonly query: Expr;
  /** Index of the token's first head in `largest`. */
  readonly state: Expr;
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

/** q k / sqrt(headDim) for `heads` heads and `count` blocks of 16 keys: lanes are positions. */
function writeScores(a: Attention, visit: Visit, firstHead: Expr, firstBlock: Expr, count: number): void {
  const { b, s, shape } = a;
  const { headDim } = shape;
  const first = b.let('position', mul(firstBlock, KEY_BLOCK));
  const firstKeys = keyBlockStart(shape, visit.kvHead, add(shift('right', visit.chunk, 4), firstBlock));
  const keys = b.let('keys', firstKeys);
  const values = b.let('values', valueStart(shape, visit.kvHead, add(visit.chunk, first)));
  const query = b.let('query', add(visit.query, mul(firstHead, headDim)));
  const dots = range(s.heads).map(() => range(count).map(() => b.var('dots', float(0, LANES))));
  b.for('d', 0, headDim, 1, (d) => {
    const from = b.let('from', add(keys, mul(d, KEY_BLOCK)));
    const column = range(count).map((i) => {
      const key = b.load(a.keys, add(from, i * headDim * KEY_BLOCK), LANES);
      return b.let('key', cast(key, 'f32'));
    });
    // The next keys, and as many values, which will be wanted in an order that hardware does not foresee.
    const ahead = b.let('ahead', add(values, mul(d, KEY_BLOCK)));
    for (const i of range(count)) {
      b.prefetch(a.keys, add(from, (count + i) * headDim * KEY_BLOCK));
      b.prefetch(a.values, add(ahead, i * KEY_BLOCK * valueStride(shape)));
    }
    const element = b.let('element', add(query, d));
    dots.forEach((row, h) => {
      const q = b.let('q', repeat(b.load(a.q, add(element, h * headDim)), LANES));
      row.forEach((dot, i) => {
        b.set(dot, add(dot, mul(q, column[i]!)));
      });
    });
  });
  const scores = b.let('scores', add(mul(firstHead, CHUNK), first));
  const visible = b.let('visible', repeat(sub(visit.visible, first), LANES));
  dots.forEach((row, h) => {
    row.forEach((dot, i) => {
      const lanes = add(laneIndices(LANES), constant(vector('i32', LANES), KEY_BLOCK * i));
      const score = mul(dot, float(1 / Math.sqrt(headDim), LANES));
      const seen = select('lt', lanes, visible, score, float(NOTHING, LANES));
      b.store(a.scores, add(scores, h * CHUNK + KEY_BLOCK * i), seen);
    });
  });
}

/** Scores of one head to exponentials, and the running largest score and sum. */
function writeSoftmax({ b, scores, shrink, largest, total }: Attention, visit: Visit, head: Expr): void {
  const row = b.let('row', mul(head, CHUNK));
  const forBlocks = (body: (at: Expr) => void) =>
    b.for('block', 0, visit.blocks, 1, (block) => body(b.let('at', add(row, mul(block, KEY_BLOCK)))));
  const peaks = b.var('peaks', float(NOTHING, LANES));
  forBlocks((at) => b.set(peaks, max(peaks, b.load(scores, at, LANES))));
  const state = b.let('state', add(visit.state, head));
  const before = b.let('before', b.load(largest, state));
  const peak = b.let('peak', max(before, reduce('max', peaks)));
  b.store(largest, state, peak);
  const factor = b.let('factor', exp(b, sub(before, peak)));
  b.store(shrink, head, factor);
  const sums = b.let('sums', mul(state, LANES));
  const sum = b.var('sum', mul(b.load(total, sums, LANES), repeat(factor, LANES)));
  forBlocks((at) => {
    const power = b.let('power', exp(b, sub(b.load(scores, at, LANES), repeat(peak, LANES))));
    b.store(scores, at, power);
    b.set(sum, add(sum, power));
  });
  b.store(total, sums, sum);
}

/** Adds the chunk's values, weighted, for `heads` heads and `count` vectors of value elements. */
function writeWeighted(a: Attention, visit: Visit, firstHead: Expr, element: Expr, count: number): void {
  const { b, s, shape, scores, shrink, weighted } = a;
  const stride = valueStride(shape);
  const to = b.let('to', add(mul(add(visit.state, firstHead), stride), element));
  const place = (head: number, i: number) => add(to, head * stride + LANES * i);
  const sums = range(s.heads).map((h) => {
    const factor = b.let('factor', repeat(b.load(shrink, add(firstHead, h)), LANES));
    return range(count).map((i) => b.var('sums', mul(b.load(weighted, place(h, i), LANES), factor)));
  });
  const start = b.let('values', add(valueStart(shape, visit.kvHead, visit.chunk), element));
  const weights = b.let('weights', mul(firstHead, CHUNK));
  b.for('position', 0, visit.visible, 1, (position) => {
    const from = b.let('from', add(start, mul(position, stride)));
    const values = range(count).map((i) =>
      b.let('value', cast(b.load(a.values, add(from, LANES * i), LANES), 'f32')),
    );
    const at = b.let('at', add(weights, position));
    sums.forEach((row, h) => {
      const weight = b.let('weight', repeat(b.load(scores, add(at, h * CHUNK)), LANES));
      row.forEach((sum, i) => {
        b.set(sum, add(sum, mul(weight, values[i]!)));
      });
    });
  });
  sums.forEach((row, h) => {
    row.forEach((sum, i) => {
      b.store(weighted, place(h, i), sum);
    });
  });
}

function writeVisit(a: Attention, visit: Visit): void {
  const { b, s, group, shape } = a;
  const forHeads = (body: (first: Expr) => void) => {
    if (s.heads === group) body(int(0));
    else b.for('firstHead', 0, group, s.heads, body);
  };
  forHeads((head) => {
    forTiles(b, visit.blocks, s.keyBlocks, (block, count) => writeScores(a, visit, head, block, count));
  });
  b.for('head', 0, group, 1, (head) => writeSoftmax(a, visit, head));
  const tiles = valueStride(shape) / LANES;
  const full = tiles - (tiles % s.valueTiles);
  forHeads((head) => {
    b.for('element', 0, full * LANES, s.valueTiles * LANES, (element) =>
      writeWeighted(a, visit, head, element, s.valueTiles),
    );
    if (full < tiles) writeWeighted(a, visit, head, int(full * LANES), tiles - full);
  });
}

function build(name: string, shape: AttentionShape, s: AttentionSchedule): LoopFunction {
  const { heads, kvHeads, headDim, cacheElem } = shape;
  const group = heads / kvHeads;
  const stride = valueStride(shape);
  const b = new FunctionBuilder(name);
  const a: Attention = {
    b,
    shape,
    s,
    group,
    q: b.buffer('q', 'f32', 'read'),
    keys: b.buffer('keys', cacheElem, 'read'),
    values: b.buffer('values', cacheElem, 'read'),
    scores: b.local('scores', 'f32', group * CHUNK),
    shrink: b.local('shrink', 'f32', group),
    largest: b.local('largest', 'f32', s.tokens * group),
    total: b.local('total', 'f32', s.tokens * group * LANES),
    weighted: b.local('weighted', 'f32', s.tokens * group * stride),
  };
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  const pos = b.scalar('pos');

  const tiles = b.let('tiles', div(add(n, s.tokens - 1), s.tokens));
  b.thread('job', mul(tiles, kvHeads), (job) => {
    const kvHead = b.let('kvHead', div(job, tiles));
    const turn = b.let('turn', sub(job, mul(kvHead, tiles)));
    const half = b.let('half', shift('right', turn, 1));
    // Later tokens see more: taking tiles from both ends in turn gives threads equal work.
    const tile = select('eq', and(turn, 1), int(0), half, sub(sub(tiles, 1), half));
    const first = b.let('first', mul(tile, s.tokens));
    const count = b.let('count', min(sub(n, first), int(s.tokens)));
    const query = b.let('group', mul(kvHead, group * headDim));
    const forStates = (body: (token: Expr, head: Expr, state: Expr) => void) =>
      b.for('token', 0, count, 1, (token) => {
        b.for('head', 0, group, 1, (head) => body(token, head, b.let('state', add(mul(token, group), head))));
      });

    forStates((_token, _head, state) => {
      b.store(a.largest, state, float(NOTHING));
      b.store(a.total, mul(state, LANES), float(0, LANES));
      b.for('i', 0, stride, LANES, (i) => {
        b.store(a.weighted, add(mul(state, stride), i), float(0, LANES));
      });
    });
    const end = b.let('end', add(add(pos, first), count));
    b.for('chunk', 0, end, CHUNK, (chunk) => {
      b.for('token', 0, count, 1, (token) => {
        const seen = add(add(pos, first), add(token, 1));
        const visible = b.let('visible', min(sub(seen, chunk), int(CHUNK)));
        b.if(compare('lt', int(0), visible), () => {
          writeVisit(a, {
            kvHead,
            chunk,
            visible,
            blocks: b.let('blocks', shift('right', add(visible, KEY_BLOCK - 1), 4)),
            query: b.let('query', add(rowStart(b, add(first, token), heads * headDim), query)),
            state: b.let('states', mul(token, group)),
          });
        });
      });
    });
    forStates((token, head, state) => {
      const sum = reduce('add', b.load(a.total, mul(state, LANES), LANES));
      const share = b.let('share', div(float(1), sum));
      const to = add(add(rowStart(b, add(first, token), heads * headDim), query), mul(head, headDim));
      const start = b.let('to', to);
      forPieces(b, headDim, LANES, (i, lanes) => {
        const value = b.load(a.weighted, add(mul(state, stride), i), lanes);
        b.store(out, add(start, i), mul(value, repeat(share, lanes)));
      });
    });
  });
  return b.build();
}

/** Vectors of 16 f32 that half of the registers hold. */
function accumulatorsOf({ vectorBytes, vectorRegisters }: Machine): number {
  return Math.max(1, Math.floor((vectorRegisters / 2) * (vectorBytes / 64)));
}

const divisors = (n: number) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

function defaultSchedule({ heads, kvHeads, headDim }: AttentionShape, machine: Machine): AttentionSchedule {
  const accumulators = accumulatorsOf(machine);
  const held = divisors(heads / kvHeads).findLast((d) => d <= accumulators) ?? 1;
  const each = Math.max(1, Math.floor(accumulators / held));
  return {
    tokens: 4,
    heads: held,
    keyBlocks: Math.min(each, 4),
    valueTiles: Math.min(each, Math.ceil(headDim / LANES)),
  };
}

function schedules(shape: AttentionShape, machine: Machine): readonly AttentionSchedule[] {
  const most = 2 * accumulatorsOf(machine);
  const all = divisors(shape.heads / shape.kvHeads).flatMap((heads) =>
    [1, 2, 4].flatMap((each) =>
      [1, 4, 8].map((tokens) => ({ tokens, heads, keyBlocks: each, valueTiles: each })),
    ),
  );
  return defaultFirst(
    defaultSchedule(shape, machine),
    all.filter((s) => s.heads * s.keyBlocks <= most),
  );
}

/**
 * softmax(q k / sqrt(headDim)) v over the positions up to each token's own, in f32, chunk by chunk with a
 * running largest score (Milakov and Gimelshein 2018; Dao et al. 2022).
 */
export const attention: Kernel<AttentionShape, AttentionSchedule> = {
  op: 'attention',
  family: 'default',
  defaultSchedule,
  schedules,
  build,
};
