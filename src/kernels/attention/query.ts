import type { BufferRef } from '../../loops/builder.ts';
import { add, cast, div, float, max, mul, reduce, repeat, unary } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { SMALLEST_PEAK } from '../cache.ts';
import { forPieces, LANES } from '../lanes.ts';
import { FINE, fine } from './arithmetic.ts';
import type { Attention } from './shape.ts';

/** The query of a row, from element `from` of q, in the form that keys are multiplied with. */
export function writeQuery(a: Attention, q: BufferRef, row: Expr, to: Expr, from: Expr): void {
  const { b, shape, scales, query } = a;
  const { headDim } = shape;
  const root = Math.fround(1 / Math.sqrt(headDim));
  const load = (i: Expr, lanes: number) => b.load(q, add(from, i), lanes);
  if (scales === undefined) {
    forPieces(b, headDim, LANES, (i, lanes) =>
      b.store(query, add(to, i), mul(load(i, lanes), float(root, lanes))),
    );
    return;
  }
  const peaks = b.var('peaks', float(SMALLEST_PEAK, LANES));
  const rest = b.var('rest', float(SMALLEST_PEAK));
  forPieces(b, headDim, LANES, (i, lanes) => {
    const size = unary('abs', load(i, lanes));
    if (lanes === LANES) b.set(peaks, max(peaks, size));
    else b.set(rest, max(rest, lanes === 1 ? size : reduce('max', size)));
  });
  const peak = b.let('peak', max(rest, reduce('max', peaks)));
  b.store(scales.query, row, mul(peak, float(Math.fround(root / FINE))));
  const factor = b.let('factor', div(float(FINE), peak));
  forPieces(b, headDim, LANES, (i, lanes) => {
    b.store(query, add(to, i), cast(fine(mul(load(i, lanes), repeat(factor, lanes))), 'i16'));
  });
}
