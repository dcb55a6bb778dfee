/** Queries and weights with keys and values: f32, or exact integers in pairs, which then have scales. */
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, cast, constant, float, madd, max, min, mul, unary, vector } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import type { CacheElem } from '../cache.ts';
import { LANES } from '../lanes.ts';

export interface Arithmetic {
  /** Elements of the sum that one multiplication takes. */
  readonly step: 1 | 2;
  /** Bytes of an element of the cache. */
  readonly bytes: number;
  readonly zero: Expr;
  /** LANES vectors of `step` elements of the cache. */
  load(buffer: BufferRef, index: Expr): Expr;
  /** acc + a b */
  addProduct(acc: Expr, a: Expr, b: Expr): Expr;
}

/** Queries and weights of an int8 cache are integers up to this: sums of their products with int8 fit i32. */
export const FINE = 32767;

/** f32 to i32 within +-FINE; NaN becomes -FINE, as its cast differs between targets. */
export function fine(x: Expr): Expr {
  const { lanes } = x.type;
  const most = float(FINE, lanes);
  return cast(min(max(float(-FINE, lanes), unary('nearest', x)), most), 'i32');
}

export function arithmeticOf(b: FunctionBuilder, elem: CacheElem): Arithmetic {
  if (elem === 'i8') {
    return {
      step: 2,
      bytes: 1,
      zero: constant(vector('i32', LANES), 0),
      load: (buffer, index) => cast(b.load(buffer, index, 2 * LANES), 'i16'),
      addProduct: (acc, x, y) => add(acc, madd(x, y)),
    };
  }
  return {
    step: 1,
    bytes: elem === 'f16' ? 2 : 4,
    zero: float(0, LANES),
    load: (buffer, index) => cast(b.load(buffer, index, LANES), 'f32'),
    addProduct: (acc, x, y) => add(acc, mul(x, y)),
  };
}
