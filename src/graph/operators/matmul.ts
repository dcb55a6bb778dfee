import { defineOperator } from '../registry.ts';
import { input } from '../schema.ts';
import type { Tensor } from '../step.ts';
import { FLOATS, tensor } from '../types.ts';

function multiply(x: Tensor, table: Tensor): Float64Array {
  const [m = 0, k = 0] = table.shape;
  const rows = x.shape[0]!;
  const [a, b] = [x.data, table.data];
  const out = new Float64Array(rows * m);
  for (let row = 0; row < m; row++) {
    for (let t = 0; t < rows; t++) {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += a[t * k + i]! * b[row * k + i]!;
      out[t * m + row] = sum;
    }
  }
  return out;
}

export const matmul = defineOperator({
  name: 'matmul',
  doc: 'x times the transposed table: the output head. The table may be that of the embedding.',
  inputs: [input('x', 'f32', 't', 'k'), input('table', FLOATS, 'm', 'k')],
  attrs: {},
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('m'))],
  reference: ({ inputs: [x, table] }) => [multiply(x!, table!)],
});

export const matmulScanned = defineOperator({
  name: 'matmul.scanned',
  doc: 'A matmul whose table is there a second time, in few bits: by that copy a step may find the rows that matter.',
  inputs: [input('x', 'f32', 't', 'k'), input('table', FLOATS, 'm', 'k'), input('scan', FLOATS, 'm', 'k')],
  attrs: {},
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('m'))],
  reference: ({ inputs: [x, table] }) => [multiply(x!, table!)],
});
