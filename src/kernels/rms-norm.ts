import { add, mul } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { forGroups, LANES, rowStart } from './lanes.ts';
import { inverseRms } from './norm.ts';

export type NormShape = { readonly k: number; readonly eps: number };

/** x / sqrt(mean of squares + eps) * weight, row by row. */
export const rmsNorm = fixedKernel<NormShape>('rmsNorm', (b, { k, eps }) => {
  const x = b.buffer('x', 'f32', 'read');
  const weight = b.buffer('weight', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  b.thread('token', n, (token) => {
    const row = rowStart(b, token, k);
    const inverse = inverseRms(b, x, row, k, eps);
    forGroups(b, k, (at) => {
      const scaled = mul(b.load(x, add(row, at), LANES), inverse);
      b.store(out, add(row, at), mul(scaled, b.load(weight, at, LANES)));
    });
  });
});
