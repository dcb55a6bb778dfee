import { add, mul } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { LANES, rowStart } from './lanes.ts';
import { inverseRms, quantizedRows, quantizeRow } from './norm.ts';
import type { NormShape } from './rms-norm.ts';

/** rmsNorm, then quantize, without a trip through memory: the same values are computed twice instead. */
export const rmsNormQuantize = fixedKernel<NormShape>('rmsNorm.quantize', (b, { k, eps }) => {
  const x = b.buffer('x', 'f32', 'read');
  const weight = b.buffer('weight', 'f32', 'read');
  const rows = quantizedRows(b);
  const n = b.scalar('n');
  b.thread('token', n, (token) => {
    const row = rowStart(b, token, k);
    const inverse = inverseRms(b, x, row, k, eps);
    quantizeRow(b, k, rows, token, (at) =>
      mul(mul(b.load(x, add(row, at), LANES), inverse), b.load(weight, at, LANES)),
    );
  });
});
