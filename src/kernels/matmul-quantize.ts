import type { BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  cast,
  constant,
  div,
  float,
  int,
  max,
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
import { rowStride } from './kernel.ts';
import { keepFirst, LANES, nearestTo, rowStart } from './lanes.ts';

export type MatmulQuantizeShape = {
  readonly k: number;
  readonly group: 32 | 64;
  /** int8 numbers that an activation becomes: 1, or 2 for 14 bits. */
  readonly planes: 1 | 2;
  /** Whether the norms of the activations and of their rounding are wanted. */
  readonly norms: boolean;
};

/** With two planes an activation is 64 high + low, -32 <= low < 32. */
export const PLANE_BITS = 6;

/** Largest magnitude of a whole activation: `high` is at most 127. */
const WHOLE_MAX = { 1: 127, 2: (127 << PLANE_BITS) + 31 };

/** The smallest largest magnitude of a group, so that a group of zeros has a scale too. */
const SMALLEST_PEAK = 1e-30;

/** Added to norms: more than squares too small for f32 can make up. */
const NORM_FLOOR = 2 ** -50;

/** Elements of `q` in a row. */
export function planesStride({ k, planes }: Pick<MatmulQuantizeShape, 'k' | 'planes'>): number {
  return planes * rowStride(k);
}

/** Groups of a row; their scales and sums lie at a stride of `rowStride` of it. */
export function groupsOf({ k, group }: Pick<MatmulQuantizeShape, 'k' | 'group'>): number {
  return rowStride(k) / group;
}

/** Writes the integers of one piece of `LANES` columns: the second plane lies `group` elements after the first. */
function storePlanes(
  b: FunctionBuilder,
  { group, planes }: MatmulQuantizeShape,
  q: BufferRef,
  to: Expr,
  whole: Expr,
): void {
  if (planes === 1) {
    b.store(q, to, cast(whole, 'i8'));
    return;
  }
  const high = b.let('high', shift('right', add(whole, 1 << (PLANE_BITS - 1)), PLANE_BITS));
  b.store(q, to, cast(high, 'i8'));
  b.store(q, add(to, group), cast(sub(whole, shift('left', high, PLANE_BITS)), 'i8'));
}

/**
 * Activations as integers, with a scale for every group of columns, for `matmul` by tables of few bits:
 * q = nearest(x * (most / peak)), factor = peak / most, where most = 127, or 8159 in two planes.
 *
 * A group's planes lie one after the other. Norms, of each row: |x| and |x - factor q|, a hair more.
 */
export const matmulQuantize = fixedKernel<MatmulQuantizeShape>('matmul.quantize', (b, shape) => {
  const { k, group, planes, norms } = shape;
  const x = b.buffer('x', 'f32', 'read');
  const q = b.buffer('q', 'i8', 'write');
  const factor = b.buffer('factor', 'f32', 'write');
  const sum = b.buffer('sum', 'i32', 'write');
  const norm = norms ? b.buffer('norm', 'f32', 'write') : undefined;
  const n = b.scalar('n');
  const most = WHOLE_MAX[planes];
  b.thread('token', n, (token) => {
    const from = rowStart(b, token, k);
    const to = b.let('to', mul(token, planesStride(shape)));
    const first = b.let('first', mul(token, rowStride(groupsOf(shape))));
    const squares = b.var('squares', float(0, LANES));
    const rounding = b.var('rounding', float(0, LANES));
    const writeGroup = (g: Expr, columns: number) => {
      const start = b.let('start', add(from, mul(g, group)));
      const pieces = Array.from({ length: group / LANES }, (_, i) => {
        const count = Math.min(Math.max(columns - i * LANES, 0), LANES);
        if (count === 0) return float(0, LANES);
        return b.let('values', keepFirst(b.load(x, add(start, i * LANES), LANES), count));
      });
      const largest = pieces.map((v) => unary('abs', v)).reduce((a, v) => max(a, v), float(0, LANES));
      const peak = b.let('peak', max(reduce('max', largest), float(SMALLEST_PEAK)));
      const inverse = b.let('inverse', repeat(div(float(most), peak), LANES));
      const unit = b.let('unit', div(peak, float(most)));
      const total = b.var('total', constant(vector('i32', LANES), 0));
      const out = b.let('out', add(to, mul(g, planes * group)));
      pieces.forEach((values, i) => {
        const clamped = b.let('clamped', nearestTo(values, inverse, most));
        const whole = b.let('whole', cast(clamped, 'i32'));
        storePlanes(b, shape, q, add(out, i * LANES), whole);
        b.set(total, add(total, whole));
        if (norm === undefined) return;
        const off = b.let('off', sub(values, mul(clamped, repeat(unit, LANES))));
        b.set(squares, add(squares, mul(values, values)));
        b.set(rounding, add(rounding, mul(off, off)));
      });
      b.store(factor, add(first, g), unit);
      b.store(sum, add(first, g), reduce('add', total));
    };
    const whole = Math.floor(k / group);
    if (whole > 0) b.for('g', 0, whole, 1, (g) => writeGroup(g, group));
    for (let g = whole; g < groupsOf(shape); g++) writeGroup(int(g), Math.max(k - g * group, 0));
    if (norm === undefined) return;
    const at = b.let('at', mul(token, rowStride(2)));
    b.store(norm, at, add(unary('sqrt', reduce('add', squares)), float(NORM_FLOOR)));
    b.store(norm, add(at, 1), add(unary('sqrt', reduce('add', rounding)), float(NORM_FLOOR)));
  });
});
