import { roundHalfEven } from '../../common/math.ts';
import type { Dim, TensorType } from '../ir.ts';
import { defineOperator } from '../registry.ts';
import { choiceAttr, input, integerAttr, optional } from '../schema.ts';
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

/** The largest magnitude of an `int16` activation: 127 * 128, so that two i8 planes can hold it. */
const INT16_MAX = 16256;

type GroupForm = { readonly group: number; readonly to: 'int8' | 'int16' };

/** What operators that quantize in groups of columns have in common. */
export const groupAttrs = { group: integerAttr(1), to: choiceAttr('int8', 'int16') };
export const orderInput = optional(input('order', 'i32', 'k'));

export function groupTypes(rows: Dim, k: number, { group, to }: GroupForm): readonly TensorType[] {
  const groups = Math.ceil(k / group);
  const q = tensor(to === 'int8' ? 'i8' : 'i16', rows, k);
  return [q, tensor('f32', rows, groups), tensor('i32', rows, groups)];
}

/** The columns of x [rows, k] in the given order. */
function reorder(x: Numbers, k: number, order: Numbers): Float64Array {
  return Float64Array.from({ length: x.length }, (_, i) => x[i - (i % k) + order[i % k]!]!);
}

/** Absmax quantization of every group of columns of x [rows, k], the last of which may be narrower. */
export function quantizeGroups(
  x: Numbers,
  k: number,
  { group, to }: GroupForm,
  order?: Numbers,
): readonly Numbers[] {
  const values = order === undefined ? x : reorder(x, k, order);
  const rows = x.length / k;
  const groups = Math.ceil(k / group);
  const q = to === 'int8' ? new Int8Array(x.length) : new Int16Array(x.length);
  const scale = new Float64Array(rows * groups);
  const sum = new Int32Array(rows * groups);
  const largest = to === 'int8' ? 127 : INT16_MAX;
  for (let row = 0; row < rows; row++) {
    for (let g = 0; g < groups; g++) {
      const [from, end] = [row * k + g * group, row * k + Math.min(k, (g + 1) * group)];
      let amax = 1e-30;
      for (let i = from; i < end; i++) amax = Math.max(amax, Math.abs(values[i]!));
      const inverse = largest / amax;
      for (let i = from; i < end; i++) {
        q[i] = Math.min(largest, Math.max(-largest, roundHalfEven(values[i]! * inverse)));
        sum[row * groups + g]! += q[i]!;
      }
      scale[row * groups + g] = amax / largest;
    }
  }
  return [q, scale, sum];
}

export const quantizeGroup = defineOperator({
  name: 'quantize.group',
  doc: 'quantize, for every group of columns by itself, of the columns in the given order: amax = max(max|x|, 1e-30); q = round-half-even(x * (L / amax)) with L = 127 for int8 and 16256 for int16; scale = amax / L.',
  inputs: [input('x', 'f32', 't', 'k'), orderInput],
  attrs: groupAttrs,
  outputs: ['q', 'scale', 'sum'],
  infer: ({ rows, size, attrs }) => groupTypes(rows, size('k'), attrs),
  reference: ({ inputs: [x, order], attrs }) => quantizeGroups(x!.data, x!.shape[1]!, attrs, order?.data),
});
