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
  madd,
  max,
  min,
  mul,
  reduce,
  repeat,
  select,
  shift,
  sub,
  unary,
  vector,
} from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import {
  type CacheShape,
  KEY_BLOCK,
  keyBlockStart,
  SMALLEST_PEAK,
  scaleStart,
  valueStart,
  valueStride,
} from './cache.ts';
import { defaultFirst, type Kernel } from './kernel.ts';
import { forPieces, LANES, laneIndices, rowStart } from './lanes.ts';
import { exp } from './math.ts';
import { forTiles } from './tiles.ts';

/** `one`: a token at a time, `many`: prompts. Both give a token the same bits. */
export type AttentionShape = CacheShape & {
  readonly batch: 'one' | 'many';
  /** Positions that a token sees, its own among them; all if absent. */
  readonly window?: number;
};

export type AttentionSchedule = {
  /** Tokens that share what is loaded of the cache; 1 for `one`. */
  readonly tokens: number;
  /** Rows, which are heads of tokens, in registers at a time. */
  readonly rows: number;
  /** Blocks of 16 keys in registers at a time. */
  readonly keyBlocks: number;
  /** Vectors of 16 value elements in registers at a time. */
  readonly valueTiles: number;
  /** Positions whose values stay near while all rows add them up. */
  readonly positions: number;
};

/**
 * Positions that are softmaxed by themselves before they are merged into what came before. Part of the meaning of
 * the kernel: chunks begin at multiples of it, whatever the tokens of a call are.
 */
export const CHUNK = 256;

/** Scores of positions that a token must not see, and the largest score before there is any. */
const NOTHING = Math.fround(-1e30);

/** Queries and weights of an int8 cache are integers up to this: sums of their products with int8 fit i32. */
const FINE = 32767;
/** The smallest largest weight that weights are scaled by. */
const SMALLEST_WEIGHT = Math.fround(1e-30);

/** Queries and weights with keys and values: f32, or exact integers in pairs, which then have scales. */
interface Arithmetic {
  /** Elements of the sum that one multiplication takes. */
  readonly step: 1 | 2;
  readonly zero: Expr;
  /** LANES vectors of `step` elements of the cache. */
  load(buffer: BufferRef, index: Expr): Expr;
  /** acc + a b */
  addProduct(acc: Expr, a: Expr, b: Expr): Expr;
}

const FLOATS = (b: FunctionBuilder): Arithmetic => ({
  step: 1,
  zero: float(0, LANES),
  load: (buffer, index) => cast(b.load(buffer, index, LANES), 'f32'),
  addProduct: (acc, x, y) => add(acc, mul(x, y)),
});

const INTEGERS = (b: FunctionBuilder): Arithmetic => ({
  step: 2,
  zero: constant(vector('i32', LANES), 0),
  load: (buffer, index) => cast(b.load(buffer, index, 2 * LANES), 'i16'),
  addProduct: (acc, x, y) => add(acc, madd(x, y)),
});

/** What an int8 cache has besides. */
interface Scales {
  /** Of keys and values, by position. */
  readonly keys: BufferRef;
  readonly values: BufferRef;
  /** [rows]: of queries, with 1 / sqrt(headDim), and of the chunk's weights. */
  readonly query: BufferRef;
  readonly weights: BufferRef;
}

interface Attention {
  readonly b: FunctionBuilder;
  readonly shape: AttentionShape;
  readonly s: AttentionSchedule;
  readonly arithmetic: Arithmetic;
  readonly scales: Scales | undefined;
  /** Heads that share a key/value head: rows of a token. */
  readonly group: number;
  readonly keys: BufferRef;
  readonly values: BufferRef;
  /** [rows][valueStride]: q / sqrt(headDim), or integers. */
  readonly query: BufferRef;
  /** [rows][CHUNK]: scores, then their exponentials. */
  readonly scores: BufferRef;
  /** [rows][CHUNK]: what values are multiplied by: the exponentials themselves, or integers. */
  readonly weights: BufferRef;
  /** [rows][valueStride]: the chunk's weighted values. */
  readonly partial: BufferRef;
  /** [rows][2]: what weighted values of before and of the chunk are multiplied by when they are merged. */
  readonly factors: BufferRef;
  /** Per row, of all chunks so far: the largest score, the sum of exponentials (16 partial ones), the weighted values. */
  readonly largest: BufferRef;
  readonly total: BufferRef;
  readonly weighted: BufferRef;
}

/** The rows of a job and the chunk they are at. Row r is head r % group of token r / group. */
interface Visit {
  readonly kvHead: Expr;
  readonly rows: Expr;
  /** First position of the chunk. */
  readonly chunk: Expr;
  /** How many positions of the chunk the first token sees, were it infinite; each further token sees one more. */
  readonly ahead: Expr;
  /** Of the last token: 1 to CHUNK. */
  readonly visible: Expr;
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

/** f32 to i32 within +-FINE; NaN becomes -FINE, as its cast differs between targets. */
function fine(x: Expr): Expr {
  const { lanes } = x.type;
  const most = float(FINE, lanes);
  return cast(min(max(float(-FINE, lanes), unary('nearest', x)), most), 'i32');
}

/** Positions of the chunk that a row sees; below 1, or more than the chunk has, if it sees none or all. */
function seenBy({ group, shape }: Attention, visit: Visit, row: Expr): Expr {
  if (shape.batch === 'one') return visit.ahead;
  return add(visit.ahead, group === 1 ? row : div(row, group));
}

function forRows({ b, s, group, shape }: Attention, visit: Visit, body: (row: Expr, count: number) => void) {
  if (shape.batch === 'many') forTiles(b, visit.rows, s.rows, body);
  else if (s.rows === group) body(int(0), group);
  else b.for('row', 0, group, s.rows, (row) => body(row, s.rows));
}

/** q k for `rows` rows and `count` blocks of 16 keys: lanes are positions. */
function writeScores(a: Attention, visit: Visit, row: Expr, rows: number, block: Expr, count: number): void {
  const { b, shape, arithmetic, scales } = a;
  const { headDim, batch } = shape;
  const { step, zero } = arithmetic;
  const stride = valueStride(shape);
  const first = b.let('position', mul(block, KEY_BLOCK));
  const keys = b.let('keys', keyBlockStart(shape, visit.kvHead, add(shift('right', visit.chunk, 4), block)));
  const values = b.let('values', valueStart(shape, visit.kvHead, add(visit.chunk, first)));
  const query = b.let('query', mul(row, stride));
  const dots = range(rows).map(() => range(count).map(() => b.var('dots', zero)));
  b.for('d', 0, headDim, step, (d) => {
    const from = b.let('from', add(keys, mul(d, KEY_BLOCK)));
    const column = range(count).map((i) =>
      b.let('key', arithmetic.load(a.keys, add(from, i * headDim * KEY_BLOCK))),
    );
    if (batch === 'one') {
      // The next keys, and as many values, which will be wanted in an order that hardware does not foresee.
      const ahead = b.let('ahead', add(values, mul(d, KEY_BLOCK)));
      for (const i of range(count)) {
        b.prefetch(a.keys, add(from, (count + i) * headDim * KEY_BLOCK));
        b.prefetch(a.values, add(ahead, i * KEY_BLOCK * stride));
      }
    }
    const element = b.let('element', add(query, d));
    dots.forEach((dot, r) => {
      const q = b.let('q', repeat(b.load(a.query, add(element, r * stride), step), LANES));
      dot.forEach((sum, i) => {
        b.set(sum, arithmetic.addProduct(sum, q, column[i]!));
      });
    });
  });
  const scores = b.let('scores', add(mul(row, CHUNK), first));
  const scale = b.let('scale', scaleStart(shape, visit.kvHead, add(visit.chunk, first)));
  const scoreOf = (sum: Expr, r: number, i: number) => {
    if (scales === undefined) return sum;
    const keyScales = b.load(scales.keys, add(scale, KEY_BLOCK * i), LANES);
    return mul(mul(cast(sum, 'f32'), keyScales), repeat(b.load(scales.query, add(row, r)), LANES));
  };
  dots.forEach((dot, r) => {
    const visible = b.let('visible', repeat(sub(seenBy(a, visit, add(row, r)), first), LANES));
    dot.forEach((sum, i) => {
      const lanes = add(laneIndices(LANES), constant(vector('i32', LANES), KEY_BLOCK * i));
      const seen = select('lt', lanes, visible, scoreOf(sum, r, i), float(NOTHING, LANES));
      const inWindow =
        shape.window === undefined
          ? seen
          : select('lt', lanes, sub(visible, repeat(int(shape.window), LANES)), float(NOTHING, LANES), seen);
      b.store(a.scores, add(scores, r * CHUNK + KEY_BLOCK * i), inWindow);
    });
  });
}

/** Adds `count` vectors of the values of positions first .. last, weighted, to the partial sums of `rows` rows. */
function writeWeighted(
  a: Attention,
  visit: Visit,
  [row, rows]: readonly [Expr, number],
  [element, count]: readonly [Expr, number],
  [first, last]: readonly [Expr, Expr],
): void {
  const { b, shape, partial, arithmetic } = a;
  const { step } = arithmetic;
  const stride = valueStride(shape);
  const to = b.let('to', add(mul(row, stride), element));
  const place = (r: number, i: number) => add(to, r * stride + LANES * i);
  const sums = range(rows).map((r) =>
    range(count).map((i) => b.var('sums', b.load(partial, place(r, i), LANES))),
  );
  const start = b.let('values', add(valueStart(shape, visit.kvHead, visit.chunk), mul(element, step)));
  const weights = b.let('weights', mul(row, CHUNK));
  // Rows that see less than the last one have weights of 0 there.
  const end = b.let('end', min(last, seenBy(a, visit, add(row, rows - 1))));
  b.for('position', first, end, step, (position) => {
    const from = b.let('from', add(start, mul(position, stride)));
    const values = range(count).map((i) =>
      b.let('value', arithmetic.load(a.values, add(from, LANES * step * i))),
    );
    const at = b.let('at', add(weights, position));
    sums.forEach((sum, r) => {
      const weight = b.let('weight', repeat(b.load(a.weights, add(at, r * CHUNK), step), LANES));
      sum.forEach((partialSum, i) => {
        b.set(partialSum, arithmetic.addProduct(partialSum, weight, values[i]!));
      });
    });
  });
  sums.forEach((sum, r) => {
    sum.forEach((value, i) => {
      b.store(partial, place(r, i), value);
    });
  });
}

/**
 * The chunk's scores of a row to exponentials. Merges their largest and their sum into the row's, and notes by what
 * factors weighted values of before and of this chunk are to be merged.
 */
function writeSoftmax(a: Attention, blocks: Expr, row: Expr): void {
  const { b, scores, largest, total, factors } = a;
  const start = b.let('scores', mul(row, CHUNK));
  const forBlocks = (body: (at: Expr) => void) =>
    b.for('block', 0, blocks, 1, (block) => body(b.let('at', add(start, mul(block, KEY_BLOCK)))));
  const peaks = b.var('peaks', float(NOTHING, LANES));
  forBlocks((at) => b.set(peaks, max(peaks, b.load(scores, at, LANES))));
  const own = b.let('own', reduce('max', peaks));
  const sum = b.var('sum', float(0, LANES));
  forBlocks((at) => {
    const power = b.let('power', exp(b, sub(b.load(scores, at, LANES), repeat(own, LANES))));
    b.store(scores, at, power);
    b.set(sum, add(sum, power));
  });
  const before = b.let('before', b.load(largest, row));
  const peak = b.let('peak', max(before, own));
  b.store(largest, row, peak);
  const less = b.let('less', exp(b, sub(min(before, own), peak)));
  const shrink = b.let('shrink', select('lt', before, own, less, float(1)));
  const grow = b.let('grow', select('lt', before, own, float(1), less));
  b.store(factors, mul(row, 2), shrink);
  b.store(factors, add(mul(row, 2), 1), grow);
  const at = b.let('sums', mul(row, LANES));
  const kept = mul(b.load(total, at, LANES), repeat(shrink, LANES));
  b.store(total, at, add(kept, mul(sum, repeat(grow, LANES))));
}

/** The chunk's exponentials of a row, each times the scale of its values, as integers of a scale of their own. */
function writeWeights(a: Attention, scales: Scales, visit: Visit, blocks: Expr, row: Expr): void {
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
  b.store(scales.weights, row, mul(peak, float(Math.fround(1 / FINE))));
  const factor = b.let('factor', repeat(div(float(FINE), peak), LANES));
  b.for('block', 0, blocks, 1, (block) => {
    const at = b.let('at', add(start, mul(block, KEY_BLOCK)));
    b.store(weights, at, cast(fine(mul(b.load(scores, at, LANES), factor)), 'i16'));
  });
}

/** Adds the chunk's weighted values of a row to those of before. */
function writeMerge({ b, shape, factors, partial, weighted, scales }: Attention, row: Expr): void {
  const stride = valueStride(shape);
  const shrink = b.let('shrink', repeat(b.load(factors, mul(row, 2)), LANES));
  const own = b.load(factors, add(mul(row, 2), 1));
  const scaled = scales === undefined ? own : mul(own, b.load(scales.weights, row));
  const grow = b.let('grow', repeat(scaled, LANES));
  const start = b.let('start', mul(row, stride));
  b.for('i', 0, stride, LANES, (i) => {
    const at = b.let('at', add(start, i));
    const kept = mul(b.load(weighted, at, LANES), shrink);
    b.store(weighted, at, add(kept, mul(cast(b.load(partial, at, LANES), 'f32'), grow)));
  });
}

function writeVisit(a: Attention, visit: Visit): void {
  const { b, s, shape, partial, arithmetic, scales } = a;
  const stride = valueStride(shape);
  const blocks = b.let('blocks', shift('right', add(visit.visible, KEY_BLOCK - 1), 4));
  forTiles(b, blocks, s.keyBlocks, (block, count) => {
    forRows(a, visit, (row, rows) => writeScores(a, visit, row, rows, block, count));
  });
  /** Rows that see nothing of the chunk are left as they are. */
  const forSeeing = (body: (row: Expr) => void) =>
    b.for('row', 0, visit.rows, 1, (row) => {
      if (shape.batch === 'one') body(row);
      else b.if(compare('lt', int(0), seenBy(a, visit, row)), () => body(row));
    });
  forSeeing((row) => {
    writeSoftmax(a, blocks, row);
    if (scales !== undefined) writeWeights(a, scales, visit, blocks, row);
  });
  b.for('i', 0, mul(visit.rows, stride), LANES, (i) => b.store(partial, i, arithmetic.zero));
  const tiles = stride / LANES;
  const full = tiles - (tiles % s.valueTiles);
  b.for('first', 0, visit.visible, s.positions, (first) => {
    const last = b.let('last', min(add(first, s.positions), visit.visible));
    const accumulate = (element: Expr, count: number) =>
      forRows(a, visit, (row, rows) => writeWeighted(a, visit, [row, rows], [element, count], [first, last]));
    b.for('element', 0, full * LANES, s.valueTiles * LANES, (element) => accumulate(element, s.valueTiles));
    if (full < tiles) accumulate(int(full * LANES), tiles - full);
  });
  forSeeing((row) => writeMerge(a, row));
}

/** The query of a row, in the form that keys are multiplied with. */
function writeQuery(a: Attention, q: BufferRef, row: Expr, to: Expr, from: Expr): void {
  const { b, shape, scales, query } = a;
  const { headDim } = shape;
  const root = Math.fround(1 / Math.sqrt(headDim));
  const load = (i: Expr, lanes: number) => b.load(q, add(from, i), lanes);
  if (scales === undefined) {
    forPieces(b, headDim, LANES, (i, lanes) =>
      b.store(query, add(to, i), mul(load(i, lanes), float(root, lanes))),
    );
    return;
  }
  const peak = b.var('peak', float(SMALLEST_PEAK));
  forPieces(b, headDim, LANES, (i, lanes) => {
    const size = unary('abs', load(i, lanes));
    b.set(peak, max(peak, lanes === 1 ? size : reduce('max', size)));
  });
  b.store(scales.query, row, mul(peak, float(Math.fround(root / FINE))));
  const factor = b.let('factor', div(float(FINE), peak));
  forPieces(b, headDim, LANES, (i, lanes) => {
    b.store(query, add(to, i), cast(fine(mul(load(i, lanes), repeat(factor, lanes))), 'i16'));
  });
}

function build(name: string, shape: AttentionShape, s: AttentionSchedule): LoopFunction {
  const { heads, kvHeads, headDim, cacheElem } = shape;
  const group = heads / kvHeads;
  const stride = valueStride(shape);
  const most = s.tokens * group;
  const b = new FunctionBuilder(name);
  const integers = cacheElem === 'i8';
  const q = b.buffer('q', 'f32', 'read');
  const keys = b.buffer('keys', cacheElem, 'read');
  const keyScales = integers ? b.buffer('keyScales', 'f32', 'read') : undefined;
  const values = b.buffer('values', cacheElem, 'read');
  const valueScales = integers ? b.buffer('valueScales', 'f32', 'read') : undefined;
  const scores = b.local('scores', 'f32', most * CHUNK);
  const a: Attention = {
    b,
    shape,
    s,
    arithmetic: integers ? INTEGERS(b) : FLOATS(b),
    scales:
      keyScales === undefined || valueScales === undefined
        ? undefined
        : {
            keys: keyScales,
            values: valueScales,
            query: b.local('queryScale', 'f32', most),
            weights: b.local('weightScale', 'f32', most),
          },
    group,
    keys,
    values,
    query: b.local('query', integers ? 'i16' : 'f32', most * stride),
    scores,
    weights: integers ? b.local('weights', 'i16', most * CHUNK) : scores,
    partial: b.local('partial', integers ? 'i32' : 'f32', most * stride),
    factors: b.local('factors', 'f32', most * 2),
    largest: b.local('largest', 'f32', most),
    total: b.local('total', 'f32', most * LANES),
    weighted: b.local('weighted', 'f32', most * stride),
  };
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  const pos = b.scalar('pos');

  const tiles = s.tokens === 1 ? n : b.let('tiles', div(add(n, s.tokens - 1), s.tokens));
  b.thread('job', mul(tiles, kvHeads), (job) => {
    const kvHead = b.let('kvHead', div(job, tiles));
    const turn = b.let('turn', sub(job, mul(kvHead, tiles)));
    const half = b.let('half', shift('right', turn, 1));
    // Later tokens see more: taking tiles from both ends in turn gives threads equal work.
    const tile = select('eq', and(turn, 1), int(0), half, sub(sub(tiles, 1), half));
    const first = b.let('first', mul(tile, s.tokens));
    const count = s.tokens === 1 ? int(1) : b.let('count', min(sub(n, first), int(s.tokens)));
    const rows = b.let('rows', mul(count, group));
    const own = b.let('own', mul(kvHead, group * headDim));
    const forStates = (body: (row: Expr, at: Expr) => void) =>
      b.for('token', 0, count, 1, (token) => {
        b.for('head', 0, group, 1, (head) => {
          const at = add(add(rowStart(b, add(first, token), heads * headDim), own), mul(head, headDim));
          body(b.let('state', add(mul(token, group), head)), b.let('at', at));
        });
      });

    forStates((row, at) => {
      b.store(a.largest, row, float(NOTHING));
      b.store(a.total, mul(row, LANES), float(0, LANES));
      const to = b.let('to', mul(row, stride));
      b.for('i', 0, stride, LANES, (i) => b.store(a.weighted, add(to, i), float(0, LANES)));
      writeQuery(a, q, row, to, at);
    });
    const start = b.let('start', add(pos, first));
    const end = b.let('end', add(start, count));
    // Rows that see nothing of the first chunk weigh all of it alike, until a chunk with scores wipes that out.
    const behind = b.let('behind', sub(add(start, 1), shape.window ?? 0));
    const firstChunk =
      shape.window === undefined ? int(0) : b.let('firstChunk', mul(div(max(behind, int(0)), CHUNK), CHUNK));
    b.for('chunk', firstChunk, end, CHUNK, (chunk) => {
      const ahead = b.let('ahead', add(sub(start, chunk), 1));
      const visible = b.let('visible', min(sub(end, chunk), int(CHUNK)));
      const one = shape.batch === 'one';
      writeVisit(a, { kvHead, rows: one ? int(group) : rows, chunk, ahead, visible });
    });
    forStates((row, at) => {
      const sum = reduce('add', b.load(a.total, mul(row, LANES), LANES));
      const share = b.let('share', div(float(1), sum));
      const from = b.let('from', mul(row, stride));
      forPieces(b, headDim, LANES, (i, lanes) => {
        b.store(out, add(at, i), mul(b.load(a.weighted, add(from, i), lanes), repeat(share, lanes)));
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

/** Rows of a job: as many as share a block of keys in the nearest cache with what is computed of them. */
const JOB_ROWS = 32;

function defaultSchedule(shape: AttentionShape, machine: Machine): AttentionSchedule {
  const { heads, kvHeads, headDim, batch } = shape;
  const group = heads / kvHeads;
  const accumulators = accumulatorsOf(machine);
  const many = batch === 'many';
  const rows = many ? accumulators : (divisors(group).findLast((d) => d <= accumulators) ?? 1);
  const each = Math.max(1, Math.floor(accumulators / rows));
  return {
    tokens: many ? Math.max(1, Math.floor(JOB_ROWS / group)) : 1,
    rows,
    keyBlocks: Math.min(each, 4),
    valueTiles: Math.min(each, Math.ceil(headDim / LANES)),
    positions: 32,
  };
}

function schedules(shape: AttentionShape, machine: Machine): readonly AttentionSchedule[] {
  const group = shape.heads / shape.kvHeads;
  const many = shape.batch === 'many';
  const all = (many ? [8, 32] : [group]).flatMap((jobRows) =>
    (many ? [2, 4, 6] : divisors(group)).flatMap((rows) =>
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
 * cache, queries and weights become integers of 16 bits, and products are exact.
 */
export const attention: Kernel<AttentionShape, AttentionSchedule> = {
  op: 'attention',
  family: 'default',
  defaultSchedule,
  schedules,
  build,
};
