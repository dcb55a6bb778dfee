import { defineOperator } from '../registry.ts';
import { input, integerAttr, optional } from '../schema.ts';
import type { Tensor } from '../step.ts';
import { tensor } from '../types.ts';

/** Columns start to start + length of every row of x [rows, width]. */
export function columns(x: Tensor, start: number, length: number): Float64Array {
  const [rows = 0, width = 0] = x.shape;
  const out = new Float64Array(rows * length);
  for (let t = 0; t < rows; t++) {
    out.set(x.data.subarray(t * width + start, t * width + start + length), t * length);
  }
  return out;
}

export const slice = defineOperator({
  name: 'slice',
  doc: 'Columns start to start + length of every row.',
  inputs: [input('x', 'f32', 't', 'k')],
  attrs: { start: integerAttr(0), length: integerAttr(1) },
  outputs: ['out'],
  infer({ rows, size, attrs: { start, length }, reject }) {
    if (start + length > size('k')) {
      reject(`columns ${start} to ${start + length} are beyond the width ${size('k')} of x`);
    }
    return [tensor('f32', rows, length)];
  },
  reference: ({ inputs: [x], attrs: { start, length } }) => [columns(x!, start, length)],
});

export const selectOutputs = defineOperator({
  name: 'selectOutputs',
  doc: 'The rows of the tokens whose logits are wanted: the last `outputs` of them.',
  inputs: [input('x', 'f32', 'tokens', 'k')],
  attrs: {},
  outputs: ['out'],
  infer: ({ size }) => [tensor('f32', 'outputs', size('k'))],
  reference({ inputs: [x], step }) {
    const { shape, data } = x!;
    return [Float64Array.from(data.subarray((step.tokens - step.outputs) * shape[1]!))];
  },
});

export const columnsOp = defineOperator({
  name: 'columns',
  doc: 'Rows side by side: the columns of a, then those of b, then those of c.',
  inputs: [
    input('a', 'f32', 't', 'ka'),
    input('b', 'f32', 't', 'kb'),
    optional(input('c', 'f32', 't', 'kc')),
  ],
  attrs: {},
  outputs: ['out'],
  infer({ rows, inputs }) {
    const width = inputs.reduce((sum, { shape }) => sum + (shape[1] as number), 0);
    return [tensor('f32', rows, width)];
  },
  reference({ inputs }) {
    const width = inputs.reduce((sum, { shape }) => sum + shape[1]!, 0);
    const rows = inputs[0]!.shape[0]!;
    const out = new Float64Array(rows * width);
    let start = 0;
    for (const { data, shape } of inputs) {
      const k = shape[1]!;
      for (let t = 0; t < rows; t++) out.set(data.subarray(t * k, (t + 1) * k), t * width + start);
      start += k;
    }
    return [out];
  },
});
