import { LutraError } from '../common/errors.ts';
import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  and,
  cast,
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
  shift,
  unary,
  vector,
} from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { fixedKernel } from './fixed.ts';
import { type Kernel, ROW_PAD, rowStride, variations } from './kernel.ts';
import { forGroups, keepFirst, LANES, nearestTo, rowStart } from './lanes.ts';
import { forRows, forTiles } from './tiles.ts';

export type MatmulInt8Shape = { readonly m: number; readonly k: number; readonly elem: 'i8' };

export type MatmulInt8Schedule = {
  /** 32-bit lanes of a vector: 4, 8 or 16. */
  readonly lanes: number;
  /** Rows by tokens in registers at a time; a token by itself takes rows one by one, */
  readonly rows: number;
  readonly tokens: number;
  /** with so many vectors of partial sums: 1, 2 or 4. */
  readonly chains: number;
  /** that are stored side by side before they are added up, since V8 joins two vectors that are: else kept in registers. */
  readonly stored: boolean;
  /** Steps of several tokens written out in the innermost loop: 1 or 2. */
  readonly unroll: number;
  /** Whether several tokens' rows are prefetched while those before them are multiplied. */
  readonly prefetch: boolean;
};

/** Largest magnitude of a rounded activation. */
export const WHOLE_MAX = 16383;

/** Products of it with 128 that fit an i32. */
const ROOM = 1024;

/** A dot is `high << SPLIT` plus less than that. */
const SPLIT = 12;

/** Largest k: `high` is at most 2^24, which an f32 holds exactly. */
const MAX_COLUMNS = 32768;

/** Rows of one iteration of the thread loop: few enough to stay in a cache for the next tokens. */
const ROW_BLOCK = 64;

/**
 * Activations as integers of 15 bits, for `matmul` by rows of int8: q = nearest(x * (16383 / peak)), padded with
 * zeros, and unit = peak / 16383 of each token. Against the rounding of the weights, theirs does not count.
 */
export const matmulQuantizeInt16 = fixedKernel<{ readonly k: number }>(
  'matmul.quantize',
  (b, { k }) => {
    const x = b.buffer('x', 'f32', 'read');
    const q = b.buffer('q', 'i16', 'write');
    const unit = b.buffer('unit', 'f32', 'write');
    const n = b.scalar('n');
    b.thread('token', n, (token) => {
      const row = rowStart(b, token, k);
      const largest = b.var('largest', float(0, LANES));
      const values = (at: Expr, count: number) => keepFirst(b.load(x, add(row, at), LANES), count);
      forGroups(b, k, (at, count) => b.set(largest, max(largest, unary('abs', values(at, count)))));
      const peak = b.let('peak', max(reduce('max', largest), float(1e-30)));
      const factor = b.let('factor', repeat(div(float(WHOLE_MAX), peak), LANES));
      forGroups(b, k, (at, count) => {
        const rounded = nearestTo(values(at, count), factor, WHOLE_MAX);
        b.store(q, add(row, at), cast(cast(rounded, 'i32'), 'i16'));
      });
      for (let at = Math.ceil(k / LANES) * LANES; at < rowStride(k); at += LANES) {
        b.store(q, add(row, at), constant(vector('i16', LANES), 0));
      }
      b.store(unit, token, div(peak, float(WHOLE_MAX)));
    });
  },
  'int16',
);

interface Product {
  readonly b: FunctionBuilder;
  readonly k: number;
  readonly s: MatmulInt8Schedule;
  readonly q: BufferRef;
  readonly table: BufferRef;
  /** Where partial sums are stored, if they are. */
  readonly parts: BufferRef | undefined;
}

/**
 * [row][token] exact dots of consecutive rows with consecutive tokens, rounded to f32 once. Weights are widened
 * once for all tokens. Lanes are emptied into their upper and lower bits before they could overflow.
 */
function writeDots(
  { b, k, s, q, table, parts }: Product,
  row: Expr,
  rows: number,
  token: Expr,
  tokens: number,
) {
  const { lanes } = s;
  const stride = rowStride(k);
  const chains = rows * tokens === 1 ? Math.min(s.chains, ROW_PAD / (2 * lanes)) : 1;
  const steps = rows * tokens === 1 ? chains : s.unroll;
  const weights = b.let('weights', mul(row, stride));
  const inputs = b.let('inputs', mul(token, stride));
  const zero = constant(vector('i32', lanes), 0);
  const empty = () => Array.from({ length: rows * tokens }, () => b.var('parts', zero));
  const addUp = (from: number, to: number) => {
    const sums = Array.from({ length: rows * tokens * chains }, () => b.var('sums', zero));
    b.for('at', from, to, 2 * lanes * steps, (at) => {
      // The next rows follow these: every step brings its share of them.
      if (s.prefetch && tokens > 1) b.prefetch(table, add(add(weights, mul(at, rows)), rows * stride));
      for (let step = 0; step < steps; step++) {
        const piece = (buffer: BufferRef, start: Expr, offset: number) =>
          b.load(buffer, add(add(start, at), offset + 2 * step * lanes), 2 * lanes);
        const wide = Array.from({ length: rows }, (_, r) =>
          b.let('weight', cast(piece(table, weights, r * stride), 'i16')),
        );
        for (let t = 0; t < tokens; t++) {
          const loaded = piece(q, inputs, t * stride);
          const input = rows > 1 ? b.let('input', loaded) : loaded;
          wide.forEach((weight, r) => {
            const sum = sums[(r * tokens + t) * chains + (step % chains)]!;
            b.set(sum, add(sum, madd(weight, input)));
          });
        }
      }
    });
    if (parts === undefined || chains === 1) return sums;
    const places = sums.map((_, i) => int(i * lanes));
    for (const [i, sum] of sums.entries()) b.store(parts, places[i]!, sum);
    return places.map((place) => b.let('sum', b.load(parts, place, lanes)));
  };
  const [high, low] = [empty(), empty()];
  const block = ROOM * lanes;
  for (let from = 0; from < stride; from += block) {
    addUp(from, Math.min(from + block, stride)).forEach((sum, i) => {
      const [upper, lower] = [high[Math.floor(i / chains)]!, low[Math.floor(i / chains)]!];
      b.set(upper, add(upper, shift('right', sum, SPLIT)));
      b.set(lower, add(lower, and(sum, (1 << SPLIT) - 1)));
    });
  }
  const dots = high.map((upper, i) => {
    const rest = b.let('rest', reduce('add', low[i]!));
    const whole = add(reduce('add', upper), shift('right', rest, SPLIT));
    const less = and(rest, (1 << SPLIT) - 1);
    return add(mul(cast(whole, 'f32'), float(1 << SPLIT)), cast(less, 'f32'));
  });
  return Array.from({ length: rows }, (_, r) => dots.slice(r * tokens, (r + 1) * tokens));
}

function build(name: string, { m, k }: MatmulInt8Shape, s: MatmulInt8Schedule): LoopFunction {
  if (k > MAX_COLUMNS) {
    throw new LutraError('unsupported', `matmul of int8 is exact up to ${MAX_COLUMNS} columns, got ${k}`);
  }
  const b = new FunctionBuilder(name);
  const q = b.buffer('q', 'i16', 'read');
  const unit = b.buffer('unit', 'f32', 'read');
  const table = b.buffer('table', 'i8', 'read');
  const rowScale = b.buffer('rowScale', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  const parts = s.stored ? b.local('parts', 'i32', s.chains * s.lanes) : undefined;
  const product: Product = { b, k, s, q, table, parts };
  b.thread('block', Math.ceil(m / ROW_BLOCK), (block) => {
    const first = b.let('first', mul(block, ROW_BLOCK));
    const end = b.let('end', min(add(first, ROW_BLOCK), int(m)));
    forTiles(b, n, s.tokens, (token, tokens) => {
      const to = b.let('to', mul(token, rowStride(m)));
      const units = Array.from({ length: tokens }, (_, t) => b.let('unit', b.load(unit, add(token, t))));
      forRows(b, first, end, tokens === 1 ? 1 : s.rows, (row, rows) => {
        writeDots(product, row, rows, token, tokens).forEach((dots, r) => {
          const scale = b.let('scale', b.load(rowScale, add(row, r)));
          dots.forEach((dot, t) => {
            b.store(out, add(add(to, row), t * rowStride(m) + r), mul(mul(dot, scale), units[t]!));
          });
        });
      });
    });
  });
  return b.build();
}

function defaultSchedule(
  _: MatmulInt8Shape,
  { vectorBytes, vectorRegisters, joinsStores = false }: Machine,
): MatmulInt8Schedule {
  const lanes = Math.max(4, vectorBytes / 4);
  const scalar = { lanes, rows: 1, tokens: 1, chains: 1, stored: false, unroll: 1, prefetch: false };
  if (vectorBytes === 4) return scalar;
  // V8 loads all operands of an iteration before it computes: there must be room for them too.
  if (vectorBytes === 16 && vectorRegisters === 16)
    return { lanes, rows: 2, tokens: 2, chains: 4, stored: joinsStores, unroll: 1, prefetch: false };
  const base = { lanes, tokens: 4, chains: 4, stored: false, prefetch: true };
  if (vectorRegisters === 32) return { ...base, rows: 4, unroll: 1 };
  // Two steps at a time were 4 % faster than one for 4 and 16 tokens on one thread, -1 and 7 % on two.
  return { ...base, rows: 2, unroll: 2 };
}

/**
 * Rows of int8 with a scale each, by activations that `matmul.quantize` rounded to 15 bits: the output head. Dots
 * are exact, so that every schedule and machine gives the same bits. A token alone takes one row at a time, as one
 * stream, which processors read up to twice as fast as several. Padding of m is not written.
 */
export const matmulInt8: Kernel<MatmulInt8Shape, MatmulInt8Schedule> = {
  op: 'matmul',
  family: 'int8',
  defaultSchedule,
  schedules(shape, machine) {
    const base = defaultSchedule(shape, machine);
    if (machine.vectorBytes === 4) return [base];
    const all = variations(base, {
      rows: [1, 2, 3, 4],
      tokens: [2, 4, 8],
      chains: [1, 2, 4],
      unroll: [1, 2],
    });
    return all.filter(({ rows, tokens }) => rows * (tokens + 1) < machine.vectorRegisters);
  },
  build,
};
