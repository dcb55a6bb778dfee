import { defineOperator } from '../registry.ts';
import { input } from '../schema.ts';
import { FLOATS, tensor } from '../types.ts';

export const matmul = defineOperator({
  name: 'matmul',
  doc: 'x times the transposed table: the output head. The table may be that of the embedding.',
  inputs: [input('x', 'f32', 't', 'k'), input('table', FLOATS, 'm', 'k')],
  attrs: {},
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('m'))],
  reference({ inputs: [x, table] }) {
    const [m = 0, k = 0] = table!.shape;
    const rows = x!.shape[0]!;
    const a = x!.data;
    const b = table!.data;
    const out = new Float64Array(rows * m);
    for (let row = 0; row < m; row++) {
      for (let t = 0; t < rows; t++) {
        let sum = 0;
        for (let i = 0; i < k; i++) sum += a[t * k + i]! * b[row * k + i]!;
        out[t * m + row] = sum;
      }
    }
    return [out];
  },
});
