import { roundHalfEven } from '../../common/math.ts';
import type { Dim, TensorType } from '../ir.ts';
import { defineOperator } from '../registry.ts';
import { input } from '../schema.ts';
import type { Numbers } from '../step.ts';
import { tensor } from '../types.ts';

export function quantizedTypes(rows: Dim, k: number): readonly TensorType[] {
  return [tensor('i8', rows, k), tensor('f32', rows), tensor('i32', rows)];
}

/** Absmax quantization of each row of x [rows, k]: q i8 [rows, k], scale [rows], sum of q i32 [rows]. */
export function quantizeRows(x: Numbers, k: number): [Int8Array, Float64Array, Int32Array] {
  const rows = x.length / k;
  const q = new Int8Array(x.length);
  const scale = new Float64Array(rows);
  const sum = new Int32Array(rows);
  for (let row = 0; row < rows; row++) {
    let amax = 1e-5;
    for (let i = row * k; i < (row + 1) * k; i++) amax = Math.max(amax, Math.abs(x[i]!));
    const inverse = 127 / amax;
    let total = 0;
    for (let i = row * k; i < (row + 1) * k; i++) {
      const value = Math.min(127, Math.max(-128, roundHalfEven(x[i]! * inverse)));
      q[i] = value;
      total += value;
    }
    scale[row] = amax / 127;
    sum[row] = total;
  }
  return [q, scale, sum];
}

export const quantize = defineOperator({
  name: 'quantize',
  doc: 'Row by row: amax = max(max|x|, 1e-5); q = clamp(round-half-even(x * (127 / amax)), -128, 127); scale = amax / 127; sum = sum of q.',
  inputs: [input('x', 'f32', 't', 'k')],
  attrs: {},
  outputs: ['q', 'scale', 'sum'],
  infer: ({ rows, size }) => quantizedTypes(rows, size('k')),
  reference: ({ inputs: [x] }) => quantizeRows(x!.data, x!.shape[1]!),
});
