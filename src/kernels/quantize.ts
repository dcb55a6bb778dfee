import { add } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { LANES, rowStart } from './lanes.ts';
import { quantizedRows, quantizeRow } from './norm.ts';

export type QuantizeShape = { readonly k: number };

/** Rows of f32 to int8 with a scale per row: see `quantizeRow`. */
export const quantize = fixedKernel<QuantizeShape>('quantize', (b, { k }) => {
  const x = b.buffer('x', 'f32', 'read');
  const rows = quantizedRows(b);
  const n = b.scalar('n');
  b.thread('token', n, (token) => {
    const row = rowStart(b, token, k);
    quantizeRow(b, k, rows, token, (at) => b.load(x, add(row, at), LANES));
  });
});
