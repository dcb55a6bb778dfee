/** Pieces of RMSNorm and of int8 quantization that several kernels are made of. */
import type { BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  cast,
  constant,
  div,
  float,
  max,
  min,
  mul,
  reduce,
  repeat,
  unary,
  vector,
} from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { rowStride } from './kernel.ts';
import { forGroups, keepFirst, LANES } from './lanes.ts';

/** 1 / sqrt(mean of squares + eps) of the k elements at `row`, in every lane. */
export function inverseRms(b: FunctionBuilder, x: BufferRef, row: Expr, k: number, eps: number): Expr {
  const squares = b.var('squares', float(0, LANES));
  forGroups(b, k, (at, count) => {
    const v = b.let('v', keepFirst(b.load(x, add(row, at), LANES), count));
    b.set(squares, add(squares, mul(v, v)));
  });
  const mean = div(reduce('add', squares), float(k));
  return b.let('inverse', repeat(div(float(1), unary('sqrt', add(mean, float(eps)))), LANES));
}

/** The smallest largest magnitude that a row is scaled by, so that a row of zeros has a scale too. */
const SMALLEST_PEAK = 1e-5;

/** Where a quantized row goes: int8 elements, and per row the scale and the sum of the elements. */
export interface QuantizedRows {
  readonly q: BufferRef;
  readonly scale: BufferRef;
  readonly sum: BufferRef;
}

export function quantizedRows(b: FunctionBuilder): QuantizedRows {
  return {
    q: b.buffer('q', 'i8', 'write'),
    scale: b.buffer('scale', 'f32', 'write'),
    sum: b.buffer('sum', 'i32', 'write'),
  };
}

/**
 * Quantizes row `row` of `values`, which gives `LANES` elements of column `at`:
 * peak = max(largest magnitude, 1e-5), q = clamp(nearest(x * (127 / peak)), -128, 127), scale = peak / 127.
 */
export function quantizeRow(
  b: FunctionBuilder,
  k: number,
  { q, scale, sum }: QuantizedRows,
  row: Expr,
  values: (at: Expr) => Expr,
): void {
  const largest = b.var('largest', float(0, LANES));
  forGroups(b, k, (at, count) => {
    b.set(largest, max(largest, unary('abs', keepFirst(values(at), count))));
  });
  const peak = b.let('peak', max(reduce('max', largest), float(SMALLEST_PEAK)));
  const factor = b.let('factor', repeat(div(float(127), peak), LANES));
  const start = b.let('start', mul(row, rowStride(k)));
  const total = b.var('total', constant(vector('i32', LANES), 0));
  forGroups(b, k, (at, count) => {
    const scaled = unary('nearest', mul(keepFirst(values(at), count), factor));
    // The constant first: NaN becomes -128 here, where a cast of it would differ between targets.
    const clamped = min(max(float(-128, LANES), scaled), float(127, LANES));
    const whole = b.let('whole', cast(clamped, 'i32'));
    b.set(total, add(total, whole));
    b.store(q, add(start, at), cast(whole, 'i8'));
  });
  const written = Math.ceil(k / LANES) * LANES;
  for (let at = written; at < rowStride(k); at += LANES) {
    b.store(q, add(start, at), constant(vector('i8', LANES), 0));
  }
  b.store(scale, row, div(peak, float(127)));
  b.store(sum, row, reduce('add', total));
}
