import { add, compare, div, float, int, mul, reduce, repeat, unary } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { forPieces, LANES, rowStart, threadPairs } from './lanes.ts';

/** Rows of k columns, of which the first `normed` are heads. */
export type NormHeadsShape = {
  readonly k: number;
  readonly normed: number;
  readonly headDim: number;
  readonly eps: number;
};

/** x / sqrt(mean of squares + eps) * weight, head by head; columns behind the heads are copied. */
export const rmsNormHeads = fixedKernel<NormHeadsShape>('rmsNorm.heads', (b, { k, normed, headDim, eps }) => {
  const x = b.buffer('x', 'f32', 'read');
  const weight = b.buffer('weight', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  const heads = normed / headDim;
  // One job more for what is copied, if anything is.
  threadPairs(b, n, normed < k ? heads + 1 : heads, (token, head) => {
    const row = rowStart(b, token, k);
    const start = b.let('start', mul(head, headDim));
    const at = b.let('at', add(row, start));
    const norm = () => {
      const squares = b.var('squares', float(0, LANES));
      const rest = b.var('rest', float(0));
      forPieces(b, headDim, LANES, (i, lanes) => {
        const v = b.let('v', b.load(x, add(at, i), lanes));
        const square = mul(v, v);
        if (lanes === LANES) b.set(squares, add(squares, square));
        else b.set(rest, add(rest, lanes === 1 ? square : reduce('add', square)));
      });
      const mean = div(add(reduce('add', squares), rest), float(headDim));
      const inverse = b.let('inverse', div(float(1), unary('sqrt', add(mean, float(Math.fround(eps))))));
      forPieces(b, headDim, LANES, (i, lanes) => {
        const scaled = mul(b.load(x, add(at, i), lanes), lanes === 1 ? inverse : repeat(inverse, lanes));
        b.store(out, add(at, i), mul(scaled, b.load(weight, add(start, i), lanes)));
      });
    };
    const copy = () => {
      forPieces(b, k - normed, LANES, (i, lanes) => {
        b.store(out, add(at, i), b.load(x, add(at, i), lanes));
      });
    };
    if (normed === k) norm();
    else b.if(compare('lt', head, int(heads)), norm, copy);
  });
});
