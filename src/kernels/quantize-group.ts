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
  select,
  shift,
  shuffle,
  sub,
  unary,
  vector,
} from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { fixedKernel } from './fixed.ts';
import { PLANE_SHIFT } from './group/shape.ts';
import { rowStride } from './kernel.ts';
import { forGroups, keepFirst, LANES, nearestTo, rowStart, threadPairs } from './lanes.ts';
import { inverseRms, type QuantizedRows, quantizedRows } from './norm.ts';

export type QuantizeGroupShape = {
  readonly k: number;
  /** Columns that share a scale, a multiple of 16. */
  readonly group: number;
  readonly to: 'int8' | 'int16' | 'sums';
  /** Of `sums`, what elements are rounded to before; default `f32`: nothing. */
  readonly from?: 'f32' | 'f16' | 'int8';
  /** Whether columns are taken in the order that a buffer says. */
  readonly ordered: boolean;
};

export type NormQuantizeGroupShape = QuantizeGroupShape & { readonly eps: number };

/** Smallest largest magnitude that a group is scaled by, so that a group of zeros has a scale too. */
export const SMALLEST_PEAK = 1e-30;

export const LARGEST = { int8: 127, int16: 127 << PLANE_SHIFT, sums: 127 };

/** Of `sums`: see the operator `quantize.group`. */
const SUM_MAX = 255;
const SUM_SCALED = 253;

/** The largest finite f16. */
const F16_MAX = 65504;

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
export function storePlanes(
  b: FunctionBuilder,
  { k, to }: Pick<QuantizeGroupShape, 'k' | 'to'>,
  q: BufferRef,
  at: Expr,
  whole: Expr,
): void {
  if (to !== 'int16') {
    b.store(q, at, cast(whole, 'i8'));
    return;
  }
  const high = b.let('high', shift('right', add(whole, 1 << (PLANE_SHIFT - 1)), PLANE_SHIFT));
  b.store(q, at, cast(high, 'i8'));
  b.store(q, add(at, rowStride(k)), cast(sub(whole, shift('left', high, PLANE_SHIFT)), 'i8'));
}

type Columns = (at: Expr, count: number) => Expr;

/** In every lane, the sum of the 4 lanes it is one of. */
function sumFours(x: Expr): Expr {
  const lanes = Array.from({ length: x.type.lanes }, (_, i) => i);
  const pairs = (bit: number, of: Expr) =>
    add(
      of,
      shuffle(
        of,
        lanes.map((i) => i ^ bit),
      ),
    );
  return pairs(2, pairs(1, x));
}

/** The largest of what each of `kinds` makes of the magnitudes of some columns. */
function largestOf(
  b: FunctionBuilder,
  first: Expr,
  width: number,
  values: Columns,
  kinds: readonly ((magnitudes: Expr) => Expr)[],
): readonly Expr[] {
  const largest = kinds.map(() => b.var('largest', float(0, LANES)));
  forGroups(b, width, (offset, count) => {
    const at = b.let('at', add(first, offset));
    const magnitudes = unary('abs', keepFirst(values(at, count), count));
    const one = kinds.length === 1 ? magnitudes : b.let('magnitudes', magnitudes);
    for (const [i, kind] of kinds.entries()) b.set(largest[i]!, max(largest[i]!, kind(one)));
  });
  return largest.map((lanes) => reduce('max', lanes));
}

const alone = (magnitudes: Expr) => magnitudes;

/** How columns become integers: by this factor, of these values, where 1 is so much. */
interface Steps {
  readonly values: Columns;
  readonly factor: Expr;
  readonly scale: Expr;
}

function stepsOf(
  b: FunctionBuilder,
  { to, from }: QuantizeGroupShape,
  first: Expr,
  width: number,
  values: Columns,
): Steps {
  const halves = (x: Expr) =>
    cast(cast(min(max(float(-F16_MAX, LANES), x), float(F16_MAX, LANES)), 'f16'), 'f32');
  const exact: Columns = to === 'sums' && from === 'f16' ? (at, count) => halves(values(at, count)) : values;
  const sums = to === 'sums' && from !== 'int8';
  const [found, sumOfFloats] = largestOf(b, first, width, exact, sums ? [alone, sumFours] : [alone]);
  const peak = b.let('peak', max(found!, float(SMALLEST_PEAK)));
  const limit = LARGEST[to];
  const lanes = (x: Expr) => b.let('factor', repeat(x, LANES));
  const whole = { values: exact, factor: lanes(div(float(limit), peak)), scale: div(peak, float(limit)) };
  if (to !== 'sums') return whole;
  if (!sums) {
    const integers: Columns = (at, count) =>
      nearestTo(keepFirst(exact(at, count), count), whole.factor, limit);
    const sum = b.let('largestSum', largestOf(b, first, width, integers, [sumFours])[0]!);
    const step = select('lt', float(SUM_MAX), sum, div(sum, float(SUM_SCALED)), float(1));
    const unit = b.let('unit', step);
    return { values: integers, factor: lanes(div(float(1), unit)), scale: mul(whole.scale, unit) };
  }
  const scale = b.let('step', max(whole.scale, div(sumOfFloats!, float(SUM_SCALED))));
  return { values: exact, factor: lanes(div(float(1), scale)), scale };
}

/** Quantizes `width` columns of token `token` from column `first` on: the group `index`. */
function quantizeColumns(
  b: FunctionBuilder,
  shape: QuantizeGroupShape,
  { q, scale, sum }: QuantizedRows,
  token: Expr,
  index: Expr,
  width: number,
  columns: Columns,
): void {
  const { k, group, to } = shape;
  const first = b.let('first', mul(index, group));
  const { values, factor, scale: one } = stepsOf(b, shape, first, width, columns);
  const planes = to === 'int16' ? 2 : 1;
  const start = b.let('start', mul(token, planes * rowStride(k)));
  const total = b.var('total', constant(vector('i32', LANES), 0));
  forGroups(b, width, (offset, count) => {
    const at = b.let('at', add(first, offset));
    const rounded = nearestTo(keepFirst(values(at, count), count), factor, LARGEST[to]);
    const whole = b.let('whole', cast(rounded, 'i32'));
    b.set(total, add(total, whole));
    storePlanes(b, shape, q, b.let('to', add(start, at)), whole);
  });
  const part = b.let('part', add(mul(token, rowStride(Math.ceil(k / group))), index));
  b.store(scale, part, one);
  b.store(sum, part, reduce('add', total));
}

/** The last group of a row, which may be narrower, and zeros up to the end of the row. */
function quantizeLast(
  b: FunctionBuilder,
  shape: QuantizeGroupShape,
  rows: QuantizedRows,
  token: Expr,
  values: Columns,
): void {
  const { k, group, to } = shape;
  const index = Math.ceil(k / group) - 1;
  quantizeColumns(b, shape, rows, token, int(index), k - index * group, values);
  const planes = to === 'int16' ? 2 : 1;
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
