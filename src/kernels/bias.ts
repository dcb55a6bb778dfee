import { add } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { forElements, LANES, rowStart } from './lanes.ts';

export type BiasShape = { readonly k: number };

/** x + bias, the same row for all rows. */
export const bias = fixedKernel<BiasShape>('bias', (b, { k }) => {
  const x = b.buffer('x', 'f32', 'read');
  const row = b.buffer('bias', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  forElements(b, n, k, (token, column) => {
    const at = b.let('at', add(rowStart(b, token, k), column));
    b.store(out, at, add(b.load(x, at, LANES), b.load(row, column, LANES)));
  });
});
