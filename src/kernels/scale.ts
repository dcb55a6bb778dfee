import { add, float, mul } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { forElements, LANES, rowStart } from './lanes.ts';

export type ScaleShape = { readonly k: number; readonly factor: number };

/** x * factor, which is rounded to f32. */
export const scale = fixedKernel<ScaleShape>('scale', (b, { k, factor }) => {
  const x = b.buffer('x', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  forElements(b, n, k, (token, column) => {
    const at = b.let('at', add(rowStart(b, token, k), column));
    b.store(out, at, mul(b.load(x, at, LANES), float(Math.fround(factor), LANES)));
  });
});
