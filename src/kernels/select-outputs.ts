import { add, compare, sub } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { forElements, LANES, rowStart } from './lanes.ts';

export type SelectOutputsShape = { readonly k: number };

/** The rows of x whose logits are wanted, one after the other: row i where outputs[i] < outputs[i + 1]. */
export const selectOutputs = fixedKernel<SelectOutputsShape>('selectOutputs', (b, { k }) => {
  const x = b.buffer('x', 'f32', 'read');
  const outputs = b.buffer('outputs', 'i32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  forElements(b, n, k, (row, column) => {
    const place = b.let('place', b.load(outputs, row));
    b.if(compare('lt', place, b.load(outputs, add(row, 1))), () => {
      const to = rowStart(b, sub(place, b.load(outputs, 0)), k);
      b.store(out, add(to, column), b.load(x, add(rowStart(b, row, k), column), LANES));
    });
  });
});
