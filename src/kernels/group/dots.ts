/** Products of codes and activations, and adding them up: what packed codes and unpacked ones have in common. */
import { range } from '../../common/math.ts';
import type { FunctionBuilder } from '../../loops/builder.ts';
import { add, constant, dot2, dot4, madd, repeat } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride, type VectorMultiply } from '../kernel.ts';
import { widenPairs } from '../lowbit.ts';
import {
  type GroupParams,
  type GroupSchedule,
  type GroupShape,
  type Place,
  planesOf,
  tokenStride,
} from './shape.ts';

/** A schedule that is not scalar. */
export type VectorSchedule = GroupSchedule & { readonly multiply: VectorMultiply };

/** What every product is written with. */
export interface Writer {
  readonly b: FunctionBuilder;
  readonly p: GroupParams;
  readonly shape: GroupShape;
  readonly s: VectorSchedule;
}

/** [token][plane] */
export type Dots = readonly (readonly Expr[])[];

/** Columns until an i16 accumulator is full: 4 columns add up to 2 * 128 * (2^bits - 1) to it. */
export const DOT2_COLUMNS: Readonly<Record<number, number>> = { 1: 512, 2: 128, 3: 64, 4: 32, 6: 8 };

/** Variables of 0, one for each plane of each token. */
export function accumulators({ b, shape }: Writer, name: string, tokens: number, type: Expr['type']): Dots {
  return range(tokens).map(() => range(planesOf(shape)).map(() => b.var(name, constant(type, 0))));
}

/**
 * Multiplies codes of 4 columns by the activations of every token and plane, which are added to `dotOf`. `codes` is one
 * vector of u8, at most `codeMax`, or for `madd` those of the even columns and of the odd ones as i16. The first token's
 * activations of these columns begin at `x` + `column`.
 */
export function addProducts(
  { b, p, shape, s }: Writer,
  { rows, tokens }: Pick<Place, 'rows' | 'tokens'>,
  codes: readonly Expr[],
  codeMax: number,
  x: Expr,
  column: number,
  dotOf: (token: number, plane: number) => Expr,
): void {
  for (const t of range(tokens)) {
    for (const plane of range(planesOf(shape))) {
      const q = add(x, t * tokenStride(shape) + plane * rowStride(shape.k) + column);
      const four = b.let('four', repeat(b.load(p.q, q, 4), rows));
      const dot = dotOf(t, plane);
      if (s.multiply === 'dot4') b.set(dot, dot4(dot, codes[0]!, four, codeMax));
      else if (s.multiply === 'dot2') b.set(dot, add(dot, dot2(codes[0]!, four, codeMax)));
      else for (const [i, half] of widenPairs(b, four).entries()) b.set(dot, add(dot, madd(codes[i]!, half)));
    }
  }
}

/** Adds dots to the variables `totals`. */
export function addDots({ b }: Writer, totals: Dots, dots: Dots): void {
  for (const [t, ofToken] of dots.entries()) {
    for (const [plane, dot] of ofToken.entries()) b.set(totals[t]![plane]!, add(totals[t]![plane]!, dot));
  }
}

/** Adds the dots of `width` columns from `column` on to `totals`: those of at most `most` columns at a time, by `some`. */
export function addInParts(
  writer: Writer,
  totals: Dots,
  column: Expr,
  width: number,
  most: number,
  some: (from: Expr, columns: number) => Dots,
): void {
  const { b } = writer;
  const addSome = (from: Expr, columns: number) =>
    addDots(writer, totals, some(b.let('from', from), columns));
  const full = Math.floor(width / most) * most;
  b.for('block', 0, full, most, (offset) => addSome(add(column, offset), most));
  if (full < width) addSome(add(column, full), width - full);
}
