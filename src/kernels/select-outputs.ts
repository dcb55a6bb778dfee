import { add } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { forElements, LANES, rowStart } from './lanes.ts';

export type SelectOutputsShape = { readonly k: number };

/** Rows first .. first + n of x. */
export const selectOutputs = fixedKernel<SelectOutputsShape>('selectOutputs', (b, { k }) => {
  const x = b.buffer('x', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const first = b.scalar('first');
  const n = b.scalar('n');
  forElements(b, n, k, (row, column) => {
    const from = add(rowStart(b, add(first, row), k), column);
    b.store(out, add(rowStart(b, row, k), column), b.load(x, from, LANES));
  });
});
