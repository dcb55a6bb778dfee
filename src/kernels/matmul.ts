import { LutraError } from '../common/errors.ts';
import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  and,
  bitcast,
  cast,
  compare,
  concat,
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
  shuffle,
  sub,
  unary,
  vector,
} from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { defaultFirst, type Kernel, rowStride } from './kernel.ts';
import { forGroups, keepFirst, LANES, rowStart } from './lanes.ts';

export type MatmulShape = {
  readonly m: number;
  readonly k: number;
  readonly elem: 'bf16' | 'f16' | 'f32' | 'i8';
};

export type MatmulSchedule = {
  /** 32-bit lanes of a vector: 4, 8 or 16. */
  readonly lanes: number;
  /** Vectors of partial sums in registers at a time; there are as many passes over a row as that takes. */
  readonly accumulators: number;
  /** How far ahead the table is prefetched; 0: not at all. */
  readonly prefetchBytes: number;
};

/**
 * Partial sums of a dot. More than other reductions have, because rows are best read one after the other, as a
 * single stream, and the additions of one row must then overlap each other.
 */
const PARTS = 32;

/**
 * Rows of one iteration of the thread loop: many, because activations are prepared in each; few enough to stay
 * in a cache for the next token.
 */
const ROW_BLOCK = 64;

/** Largest magnitude of a rounded activation: 2 k/64 products of it with 128 fit an i32 lane. */
const WHOLE_MAX = 16383;
const MAX_WHOLE_COLUMNS = 32768;

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

interface Product {
  readonly b: FunctionBuilder;
  readonly shape: MatmulShape;
  readonly s: MatmulSchedule;
  readonly x: BufferRef;
  readonly table: BufferRef;
  /** The activations of one token as the elements of the table want them, 0 in the padding. */
  readonly inputs: BufferRef;
}

/** What the kernel does with the elements of a table. */
interface Way {
  readonly inputs: 'f32' | 'i16';
  readonly sums: 'f32' | 'i32';
  /** Columns that all partial sums together take in a step. */
  readonly columns: number;
  /** Vectors of partial sums that one load from the table serves. */
  readonly vectors: number;
  /** Fills `inputs`; returns what a dot is to be multiplied by, if by anything. */
  prepare(product: Product, token: Expr): Expr | undefined;
  /** Terms for those vectors: of piece `piece` of a step whose weights and inputs begin at the indices given. */
  terms(product: Product, weights: Expr, inputs: Expr, piece: number): readonly Expr[];
}

/** Calls `body` for groups of activations of a token, 0 in the padding. */
function forActivations(
  { b, shape: { k }, x }: Product,
  token: Expr,
  body: (at: Expr, values: Expr) => void,
) {
  const row = rowStart(b, token, k);
  forGroups(b, k, (at, count) => body(at, keepFirst(b.load(x, add(row, at), LANES), count)));
  for (let at = Math.ceil(k / LANES) * LANES; at < rowStride(k); at += LANES) body(int(at), float(0, LANES));
}

/** f32 and f16. */
const PLAIN: Way = {
  inputs: 'f32',
  sums: 'f32',
  columns: PARTS,
  vectors: 1,
  prepare(product, token) {
    forActivations(product, token, (at, values) => product.b.store(product.inputs, at, values));
    return undefined;
  },
  terms(product, weights, inputs, piece) {
    const { b, s, table } = product;
    const weight = cast(b.load(table, add(weights, piece * s.lanes), s.lanes), 'f32');
    return [mul(weight, b.load(product.inputs, add(inputs, piece * s.lanes), s.lanes))];
  },
};

/**
 * bf16, which is the upper half of an f32: a 32-bit lane holds two of them, each one instruction away from being
 * one. The lower ones are even columns, the upper ones odd. Of every 32 activations `inputs` has the 16 even ones
 * first: partial sum p < 16 belongs to column 2p, partial sum 16 + p to column 2p + 1.
 */
const PAIRS: Way = {
  inputs: 'f32',
  sums: 'f32',
  columns: PARTS,
  vectors: 2,
  prepare(product, token) {
    const { b, inputs } = product;
    forActivations(product, token, (at, values) => {
      const group = b.let('group', values);
      const half = (odd: number) =>
        shuffle(
          group,
          range(LANES / 2).map((i) => 2 * i + odd),
        );
      // The second 16 activations of 32 come 8 places after the first.
      const to = b.let('to', sub(at, shift('right', and(at, LANES), 1)));
      b.store(inputs, to, half(0));
      b.store(inputs, add(to, LANES), half(1));
    });
    return undefined;
  },
  terms(product, weights, inputs, piece) {
    const { b, s, table } = product;
    const stored = b.load(table, add(weights, 2 * piece * s.lanes), 2 * s.lanes);
    const pair = b.let('pair', bitcast(stored, vector('u32', s.lanes)));
    return [shift('left', pair, 16), and(pair, 0xffff0000)].map((bits, odd) => {
      const at = add(inputs, piece * s.lanes + odd * LANES);
      return mul(bitcast(bits, vector('f32', s.lanes)), b.load(product.inputs, at, s.lanes));
    });
  },
};

/**
 * int8: activations are rounded to integers of 15 bits, so that products add up exactly; against the rounding of
 * the weights, theirs does not count.
 */
const WHOLE: Way = {
  inputs: 'i16',
  sums: 'i32',
  columns: 2 * PARTS,
  vectors: 1,
  prepare(product, token) {
    const { b, inputs } = product;
    const largest = b.var('largest', float(0, LANES));
    forActivations(product, token, (_, values) => b.set(largest, max(largest, unary('abs', values))));
    const peak = b.let('peak', max(reduce('max', largest), float(1e-30)));
    const factor = b.let('factor', repeat(div(float(WHOLE_MAX), peak), LANES));
    forActivations(product, token, (at, values) => {
      const scaled = unary('nearest', mul(values, factor));
      // The constant first: a cast of NaN would differ between targets.
      const clamped = min(max(float(-WHOLE_MAX, LANES), scaled), float(WHOLE_MAX, LANES));
      b.store(inputs, at, cast(cast(clamped, 'i32'), 'i16'));
    });
    return b.let('unit', div(peak, float(WHOLE_MAX)));
  },
  terms(product, weights, inputs, piece) {
    const { b, s, table } = product;
    const offset = 2 * piece * s.lanes;
    const weight = cast(b.load(table, add(weights, offset), 2 * s.lanes), 'i16');
    return [madd(weight, b.load(product.inputs, add(inputs, offset), 2 * s.lanes))];
  },
};

const WAYS: Record<MatmulShape['elem'], Way> = { f32: PLAIN, f16: PLAIN, bf16: PAIRS, i8: WHOLE };
const ELEM_BYTES = { f32: 4, f16: 2, bf16: 2, i8: 1 };

/** The dot of a row with the prepared activations. */
function writeDot(product: Product, row: Expr): Expr {
  const { b, shape, s, table } = product;
  const way = WAYS[shape.elem];
  const stride = rowStride(shape.k);
  const start = b.let('start', mul(row, stride));
  const zero = constant(vector(way.sums, s.lanes), 0);
  const pieces = PARTS / (s.lanes * way.vectors);
  const perPass = Math.max(1, Math.floor(s.accumulators / way.vectors));
  const sums: Expr[][] = [];
  for (let first = 0; first < pieces; first += perPass) {
    const inPass = range(Math.min(perPass, pieces - first));
    const held = inPass.map(() => range(way.vectors).map(() => b.var('sums', zero)));
    b.for('at', 0, stride, way.columns, (at) => {
      const weights = b.let('weights', add(start, at));
      if (s.prefetchBytes > 0 && first === 0) {
        b.prefetch(table, add(weights, s.prefetchBytes / ELEM_BYTES[shape.elem]));
      }
      for (const i of inPass) {
        way.terms(product, weights, at, first + i).forEach((term, v) => {
          b.set(held[i]![v]!, add(held[i]![v]!, term));
        });
      }
    });
    sums.push(...held);
  }
  const parts = concat(range(way.vectors).flatMap((v) => sums.map((ofPiece) => ofPiece[v]!)));
  return reduce('add', way.sums === 'i32' ? cast(parts, 'f32') : parts);
}

function build(name: string, shape: MatmulShape, s: MatmulSchedule): LoopFunction {
  const { m, k, elem } = shape;
  if (elem === 'i8' && k > MAX_WHOLE_COLUMNS) {
    throw new LutraError(
      'unsupported',
      `matmul of int8 is exact up to ${MAX_WHOLE_COLUMNS} columns, got ${k}`,
    );
  }
  const b = new FunctionBuilder(name);
  const way = WAYS[elem];
  const x = b.buffer('x', 'f32', 'read');
  const table = b.buffer('table', elem, 'read');
  const rowScale = elem === 'i8' ? b.buffer('rowScale', 'f32', 'read') : undefined;
  const out = b.buffer('out', 'f32', 'write');
  const inputs = b.local('inputs', way.inputs, rowStride(k));
  const product: Product = { b, shape, s, x, table, inputs };
  const n = b.scalar('n');
  b.thread('block', Math.ceil(m / ROW_BLOCK), (block) => {
    const first = b.let('first', mul(block, ROW_BLOCK));
    const end = b.let('end', min(add(first, ROW_BLOCK), int(m)));
    b.for('token', 0, n, 1, (token) => {
      const unit = way.prepare(product, token);
      const to = rowStart(b, token, m);
      b.for('row', first, end, 1, (row) => {
        const dot = writeDot(product, row);
        const scaled = rowScale === undefined ? dot : mul(dot, b.load(rowScale, row));
        b.store(out, add(to, row), unit === undefined ? scaled : mul(scaled, unit));
      });
    });
  });
  return b.build();
}

function defaultSchedule(_: MatmulShape, { vectorBytes, vectorRegisters }: Machine): MatmulSchedule {
  return {
    lanes: Math.max(4, vectorBytes / 4),
    // V8 loads all operands of an iteration before it computes: there must be room for them too.
    accumulators: vectorRegisters / (vectorBytes === 16 ? 4 : 2),
    prefetchBytes: 0,
  };
}

function schedules(shape: MatmulShape, machine: Machine): readonly MatmulSchedule[] {
  const base = defaultSchedule(shape, machine);
  const all = [0, 1024, 4096].flatMap((prefetchBytes) =>
    [2, 4, 8].map((accumulators) => ({ ...base, prefetchBytes, accumulators })),
  );
  return machine.vectorBytes === 4 ? [base] : defaultFirst(base, all);
}

/**
 * Rows of floats, or of int8 with a scale each, by f32 activations: the output head. One row at a time is one
 * stream, which processors read up to twice as fast as several. Padding of m is not written.
 */
export const matmul: Kernel<MatmulShape, MatmulSchedule> = {
  op: 'matmul',
  family: 'default',
  defaultSchedule,
  schedules,
  build,
};

/** Pairs of one iteration of the thread loop of `matmul.rows`. */
const PAIR_BLOCK = 32;

export type MatmulRowsShape = { readonly k: number; readonly elem: 'bf16' | 'f16' | 'f32' };

function buildRows(name: string, { k, elem }: MatmulRowsShape, s: MatmulSchedule): LoopFunction {
  const b = new FunctionBuilder(name);
  const way = WAYS[elem];
  const x = b.buffer('x', 'f32', 'read');
  const table = b.buffer('table', elem, 'read');
  const pairs = b.buffer('pairs', 'i32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const inputs = b.local('inputs', way.inputs, rowStride(k));
  const product: Product = { b, shape: { m: 1, k, elem }, s, x, table, inputs };
  const n = b.scalar('n');
  b.thread('block', div(add(n, PAIR_BLOCK - 1), PAIR_BLOCK), (block) => {
    const first = b.let('first', mul(block, PAIR_BLOCK));
    const prepared = b.var('prepared', int(-1));
    b.for('pair', first, b.let('end', min(add(first, PAIR_BLOCK), n)), 1, (pair) => {
      const at = b.let('pairAt', mul(pair, 2));
      const token = b.let('token', b.load(pairs, at));
      b.if(compare('ne', token, prepared), () => {
        way.prepare(product, token);
        b.set(prepared, token);
      });
      b.store(out, pair, writeDot(product, b.let('row', b.load(pairs, add(at, 1)))));
    });
  });
  return b.build();
}

/**
 * Single products of `matmul`, bit for bit: out[i] is that of row pairs[2 i] of x with row pairs[2 i + 1] of the
 * table. Pairs of the same row of x are best together.
 */
export const matmulRows: Kernel<MatmulRowsShape, MatmulSchedule> = {
  op: 'matmul.rows',
  family: 'default',
  defaultSchedule: ({ k, elem }, machine) => defaultSchedule({ m: 1, k, elem }, machine),
  schedules: ({ k, elem }, machine) => schedules({ m: 1, k, elem }, machine),
  build: buildRows,
};
