import { defineOperator, type ReferenceCall } from '../registry.ts';
import { input } from '../schema.ts';
import type { Numbers } from '../step.ts';
import { tensor } from '../types.ts';

const inputs = [
  input('q', 'i8', 't', 'k'),
  input('scale', 'f32', 't'),
  input('sum', 'i32', 't'),
  input('weight', 'ternary', 'm', 'k'),
  input('weightScale', 'f32', 'm'),
];

/** Exact: |sum of q * w| <= 128 k fits 32 bits for every k below 2^24. */
function dot(q: Numbers, qStart: number, w: Numbers, wStart: number, k: number): number {
  let sum = 0;
  for (let i = 0; i < k; i++) sum = (sum + q[qStart + i]! * w[wStart + i]!) | 0;
  return sum;
}

function product({ inputs: [q, scale, , weight, weightScale] }: ReferenceCall): Float64Array {
  const [m = 0, k = 0] = weight!.shape;
  const rows = scale!.data.length;
  const out = new Float64Array(rows * m);
  for (let row = 0; row < m; row++) {
    for (let t = 0; t < rows; t++) {
      const sum = dot(q!.data, t * k, weight!.data, row * k, k);
      out[t * m + row] = sum * weightScale!.data[row]! * scale!.data[t]!;
    }
  }
  return out;
}

export const lowbitMatmul = defineOperator({
  name: 'lowbit.matmul',
  doc: 'y = (sum over k of q * w) * weightScale[row] * scale[token]; `sum`, that of q, serves kernels with unsigned codes.',
  inputs,
  attrs: {},
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('m'))],
  reference: (call) => [product(call)],
});

export const lowbitMatmulAdd = defineOperator({
  name: 'lowbit.matmul.add',
  doc: 'lowbit.matmul, plus the residual.',
  inputs: [...inputs, input('residual', 'f32', 't', 'm')],
  attrs: {},
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('m'))],
  reference(call) {
    const out = product(call);
    const residual = call.inputs[5]!.data;
    for (let i = 0; i < out.length; i++) out[i]! += residual[i]!;
    return [out];
  },
});
