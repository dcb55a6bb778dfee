import { defineOperator } from '../registry.ts';
import { input, integerAttr, positiveAttr } from '../schema.ts';
import type { Numbers } from '../step.ts';
import { tensor } from '../types.ts';
import { quantizedTypes, quantizeRows } from './quantize.ts';
import { groupAttrs, groupTypes, orderInput, quantizeGroups } from './quantize-group.ts';

const inputs = [input('x', 'f32', 't', 'k'), input('weight', 'f32', 'k')];
const attrs = { eps: positiveAttr() };

/** Each row of x [rows, k] over its root mean square, times the weight [k]. */
function normRows(x: Numbers, weight: Numbers, eps: number): Float64Array {
  const k = weight.length;
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += k) {
    let squares = 0;
    for (let i = 0; i < k; i++) squares += x[row + i]! * x[row + i]!;
    const factor = 1 / Math.sqrt(squares / k + eps);
    for (let i = 0; i < k; i++) out[row + i] = x[row + i]! * factor * weight[i]!;
  }
  return out;
}

export const rmsNorm = defineOperator({
  name: 'rmsNorm',
  doc: 'x / sqrt(mean(x^2) + eps) * weight, row by row.',
  inputs,
  attrs,
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('k'))],
  reference: ({ inputs: [x, weight], attrs: { eps } }) => [normRows(x!.data, weight!.data, eps)],
});

export const rmsNormHeads = defineOperator({
  name: 'rmsNorm.heads',
  doc: 'rmsNorm of each headDim columns by themselves, of the first n columns; the others as they are.',
  inputs: [input('x', 'f32', 't', 'k'), input('weight', 'f32', 'n')],
  attrs: { headDim: integerAttr(1), ...attrs },
  outputs: ['out'],
  infer({ rows, size, attrs: { headDim }, reject }) {
    const [k, n] = [size('k'), size('n')];
    if (n > k || n % headDim !== 0) reject(`${n} weights are no heads of ${headDim} among ${k} columns`);
    return [tensor('f32', rows, k)];
  },
  reference({ inputs: [x, weight], attrs: { headDim, eps } }) {
    const [rows = 0, k = 0] = x!.shape;
    const out = Float64Array.from(x!.data);
    for (let row = 0; row < rows; row++) {
      for (let start = 0; start < weight!.data.length; start += headDim) {
        const at = row * k + start;
        const own = weight!.data.subarray(start, start + headDim);
        out.set(normRows(x!.data.subarray(at, at + headDim), own, eps), at);
      }
    }
    return [out];
  },
});

export const rmsNormQuantize = defineOperator({
  name: 'rmsNorm.quantize',
  doc: 'rmsNorm, then quantize.',
  inputs,
  attrs,
  outputs: ['q', 'scale', 'sum'],
  infer: ({ rows, size }) => quantizedTypes(rows, size('k')),
  reference: ({ inputs: [x, weight], attrs: { eps } }) =>
    quantizeRows(normRows(x!.data, weight!.data, eps), weight!.data.length),
});

export const rmsNormQuantizeGroup = defineOperator({
  name: 'rmsNorm.quantize.group',
  doc: 'rmsNorm, then quantize.group.',
  inputs: [...inputs, orderInput],
  attrs: { ...attrs, ...groupAttrs },
  outputs: ['q', 'scale', 'sum'],
  infer: ({ rows, size, attrs: form, reject }) => groupTypes(rows, size('k'), form, reject),
  reference({ inputs: [x, weight, order], attrs: { eps, ...form } }) {
    const normed = normRows(x!.data, weight!.data, eps);
    return quantizeGroups(normed, weight!.data.length, form, order?.data);
  },
});
