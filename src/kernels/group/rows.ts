/** Sums of weights that have one scale a row, by activations that have one a token: integers to the end of the row. */
import type { FunctionBuilder } from '../../loops/builder.ts';
import { add, constant, int, repeat, sub, vector } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { scaleRows } from '../lowbit.ts';
import {
  type GroupParams,
  type GroupShape,
  joinPlanes,
  type PartDots,
  type Place,
  type Totals,
} from './shape.ts';

/** Adds up the parts (activation groups) of all columns, and scales what `lowbit.matmul` scales, in its order. */
export function sumRows(
  b: FunctionBuilder,
  p: GroupParams,
  { k, activationGroup }: GroupShape,
  place: Place,
  totals: Totals,
  partDots: PartDots,
): void {
  const { rows, token, row } = place;
  const columns = rowStride(k);
  const whole = Math.floor(columns / activationGroup);
  const left = columns % activationGroup;
  const dots = Array.from({ length: place.tokens }, () => b.var('dots', constant(vector('i32', rows), 0)));
  const take = (column: Expr, width: number) => {
    for (const [t, planes] of partDots(column, width).entries()) {
      b.set(dots[t]!, add(dots[t]!, joinPlanes(planes)));
    }
  };
  b.for('column', 0, whole * activationGroup, activationGroup, (column) => take(column, activationGroup));
  if (left > 0) take(int(columns - left), left);
  const excess = p.excess?.(columns, token);
  for (const [t, dot] of dots.entries()) {
    const codes = excess === undefined ? dot : sub(dot, repeat(excess, rows));
    totals.set(t, scaleRows(b, p, add(token, t), row, codes));
  }
}
