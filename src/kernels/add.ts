import { add as plus } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { forElements, LANES, rowStart } from './lanes.ts';

export type AddShape = { readonly k: number };

/** a + b. */
export const add = fixedKernel<AddShape>('add', (b, { k }) => {
  const left = b.buffer('a', 'f32', 'read');
  const right = b.buffer('b', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  forElements(b, n, k, (row, column) => {
    const at = b.let('at', plus(rowStart(b, row, k), column));
    b.store(out, at, plus(b.load(left, at, LANES), b.load(right, at, LANES)));
  });
});
