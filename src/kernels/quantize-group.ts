import type { BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  cast,
  compare,
  concat,
  constant,
  div,
  float,
  int,
  max,
  min,
  mul,
  reduce,
  repeat,
  shift,
  sub,
  unary,
  vector,
} from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { fixedKernel } from './fixed.ts';
import { PLANE_SHIFT } from './group/shape.ts';
import { rowStride } from './kernel.ts';
import { forGroups, keepFirst, LANES, rowStart, threadPairs } from './lanes.ts';
import { inverseRms, type QuantizedRows, quantizedRows } from './norm.ts';

export type QuantizeGroupShape = {
  readonly k: number;
  /** Columns that share a scale, a multiple of 16. */
  readonly group: number;
  readonly to: 'int8' | 'int16';
  /** Whether columns are taken in the order that a buffer says. */
  readonly ordered: boolean;
};

export type NormQuantizeGroupShape = QuantizeGroupShape & { readonly eps: number };

/** Smallest largest magnitude that a group is scaled by, so that a group of zeros has a scale too. */
const SMALLEST_PEAK = 1e-30;

const LARGEST = { int8: 127, int16: 127 << PLANE_SHIFT };

/**
 * `LANES` elements of `buffer` from element `row` + column `at` on, or from where `order` says these columns are:
 * it has no padding, so that the lanes after the first `count` are any of them.
 */
function loadColumns(
  b: FunctionBuilder,
  buffer: BufferRef,
  row: Expr,
  at: Expr,
  count: number,
  order: BufferRef | undefined,
): Expr {
  if (order === undefined) return b.load(buffer, add(row, at), LANES);
  const columns = Array.from({ length: LANES }, (_, i) => b.load(order, add(at, i < count ? i : 0)));
  return concat(columns.map((column) => b.load(buffer, add(row, b.let('from', column)))));
}

/**
 * Writes q as one plane of i8, or as two: q = 128 * high + low with low in -64 .. 63, the high plane first, each of
 * `rowStride(k)` bytes.
 */
function storePlanes(
  b: FunctionBuilder,
  { k, to }: QuantizeGroupShape,
  q: BufferRef,
  at: Expr,
  whole: Expr,
): void {
  if (to === 'int8') {
    b.store(q, at, cast(whole, 'i8'));
    return;
  }
  const high = b.let('high', shift('right', add(whole, 1 << (PLANE_SHIFT - 1)), PLANE_SHIFT));
  b.store(q, at, cast(high, 'i8'));
  b.store(q, add(at, rowStride(k)), cast(sub(whole, shift('left', high, PLANE_SHIFT)), 'i8'));
}

/** Quantizes `width` columns of token `token` from column `first` on: the group `index`. */
function quantizeColumns(
  b: FunctionBuilder,
  shape: QuantizeGroupShape,
  { q, scale, sum }: QuantizedRows,
  token: Expr,
  index: Expr,
  width: number,
  values: (at: Expr, count: number) => Expr,
): void {
  const { k, group, to } = shape;
  const first = b.let('first', mul(index, group));
  const largest = b.var('largest', float(0, LANES));
  forGroups(b, width, (offset, count) => {
    const at = b.let('at', add(first, offset));
    b.set(largest, max(largest, unary('abs', keepFirst(values(at, count), count))));
  });
  const peak = b.let('peak', max(reduce('max', largest), float(SMALLEST_PEAK)));
  const factor = b.let('factor', repeat(div(float(LARGEST[to]), peak), LANES));
  const planes = to === 'int8' ? 1 : 2;
  const start = b.let('start', mul(token, planes * rowStride(k)));
  const total = b.var('total', constant(vector('i32', LANES), 0));
  forGroups(b, width, (offset, count) => {
    const at = b.let('at', add(first, offset));
    const scaled = unary('nearest', mul(keepFirst(values(at, count), count), factor));
    // The constant first: a cast of NaN would differ between targets.
    const clamped = min(max(float(-LARGEST[to], LANES), scaled), float(LARGEST[to], LANES));
    const whole = b.let('whole', cast(clamped, 'i32'));
    b.set(total, add(total, whole));
    storePlanes(b, shape, q, b.let('to', add(start, at)), whole);
  });
  const part = b.let('part', add(mul(token, rowStride(Math.ceil(k / group))), index));
  b.store(scale, part, div(peak, float(LARGEST[to])));
  b.store(sum, part, reduce('add', total));
}

/** The last group of a row, which may be narrower, and zeros up to the end of the row. */
function quantizeLast(
  b: FunctionBuilder,
  shape: QuantizeGroupShape,
  rows: QuantizedRows,
  token: Expr,
  values: (at: Expr, count: number) => Expr,
): void {
  const { k, group, to } = shape;
  const index = Math.ceil(k / group) - 1;
  quantizeColumns(b, shape, rows, token, int(index), k - index * group, values);
  const planes = to === 'int8' ? 1 : 2;
  const start = b.let('start', mul(token, planes * rowStride(k)));
  for (let plane = 0; plane < planes; plane++) {
    for (let at = Math.ceil(k / LANES) * LANES; at < rowStride(k); at += LANES) {
      b.store(rows.q, add(start, plane * rowStride(k) + at), constant(vector('i8', LANES), 0));
    }
  }
}

/** Rows of f32 to int8 or int16 with a scale per group of columns: see the operator `quantize.group`. */
export const quantizeGroup = fixedKernel<QuantizeGroupShape>('quantize.group', (b, shape) => {
  const { k, group, ordered } = shape;
  const x = b.buffer('x', 'f32', 'read');
  const order = ordered ? b.buffer('order', 'i32', 'read') : undefined;
  const rows = quantizedRows(b);
  const n = b.scalar('n');
  const groups = Math.ceil(k / group);
  threadPairs(b, n, groups, (token, index) => {
    const row = rowStart(b, token, k);
    const values = (at: Expr, count: number) => loadColumns(b, x, row, at, count, order);
    const last = () => quantizeLast(b, shape, rows, token, values);
    if (groups === 1) last();
    else {
      b.if(
        compare('lt', index, int(groups - 1)),
        () => quantizeColumns(b, shape, rows, token, index, group, values),
        last,
      );
    }
  });
});

/** rmsNorm, then quantize.group, without a trip through memory. */
export const rmsNormQuantizeGroup = fixedKernel<NormQuantizeGroupShape>(
  'rmsNorm.quantize.group',
  (b, shape) => {
    const { k, group, ordered, eps } = shape;
    const x = b.buffer('x', 'f32', 'read');
    const weight = b.buffer('weight', 'f32', 'read');
    const order = ordered ? b.buffer('order', 'i32', 'read') : undefined;
    const rows = quantizedRows(b);
    const n = b.scalar('n');
    b.thread('token', n, (token) => {
      const row = rowStart(b, token, k);
      const inverse = inverseRms(b, x, row, k, eps);
      const values = (at: Expr, count: number) => {
        const normed = mul(loadColumns(b, x, row, at, count, order), inverse);
        return mul(normed, loadColumns(b, weight, int(0), at, count, order));
      };
      const groups = Math.ceil(k / group);
      if (groups > 1) {
        b.for('group', 0, groups - 1, 1, (index) => {
          quantizeColumns(b, shape, rows, token, index, group, values);
        });
      }
      quantizeLast(b, shape, rows, token, values);
    });
  },
);
