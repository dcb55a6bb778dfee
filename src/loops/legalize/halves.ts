/**
 * Conversions between f32 and the 16-bit formats in integer operations, for machines without them. They are
 * exact, infinities, NaNs and subnormals included. Each takes a value that is a name, because it is used more
 * than once. To f16 there are no subnormal operands, which some machines are slow at; from f16 there is one for
 * each subnormal, which are seldom.
 */
import * as x from '../expr.ts';
import type { Expr, ScalarKind } from '../ir.ts';

type Bind = (e: Expr) => Expr;

const or = (a: Expr, b: Expr) => x.binary('or', a, b);
const orBits = (a: Expr, bits: number) => or(a, x.constant(a.type, bits));
const as = (a: Expr, kind: ScalarKind) => x.bitcast(a, { kind, lanes: a.type.lanes });

/**
 * ```
 * f16        s eeeee mmmmmmmmmm
 * moved      s 000eeeee mmmmmmmmmm0000000000000     with the sign extended over 3 bits, which are masked away
 * f32        s 000eeeee mmmmmmmmmm0000000000000     exponent + 112: times 2^112, which is exact
 * ```
 * The product makes subnormals right as well, and leaves infinities and NaNs an exponent to be filled with ones.
 */
export function f16ToF32(half: Expr, bind: Bind): Expr {
  const wide = x.cast(as(half, 'i16'), 'i32');
  const moved = bind(x.and(x.shift('left', wide, 13), 0x8fffffff | 0));
  const constant = (value: number) => x.constant(moved.type, value);
  const finite = as(x.mul(as(moved, 'f32'), 2 ** 112), 'i32');
  const exponent = x.and(moved, 0x0f800000);
  const ones = x.select('eq', exponent, constant(0x0f800000), constant(0x7f800000), constant(0));
  return as(or(finite, ones), 'f32');
}

/**
 * Normal results: the exponent is rebased and 0xfff, plus one if the last kept bit is odd, carries into that
 * bit exactly when the rest rounds up. Subnormal results: adding 0.5 makes the float unit round at 2^-24.
 */
export function f32ToF16(value: Expr, bind: Bind): Expr {
  const bits = bind(as(value, 'i32'));
  const constant = (v: number) => x.constant(bits.type, v);
  const magnitude = bind(x.and(bits, 0x7fffffff));
  const odd = x.and(x.shift('right', magnitude, 13), 1);
  const normal = x.shift('right', x.add(x.add(magnitude, 0xfff - (112 << 23)), odd), 13);
  const subnormal = x.sub(as(x.add(as(magnitude, 'f32'), 0.5), 'i32'), 126 << 23);
  // At 65536 and above; what rounds up to 65536 carries into the same bits.
  const special = x.select(
    'lt',
    constant(0x7f800000),
    magnitude,
    orBits(x.and(x.shift('right', magnitude, 13), 0x3ff), 0x7e00),
    constant(0x7c00),
  );
  const finite = x.select('lt', magnitude, constant(113 << 23), subnormal, normal);
  const unsigned = x.select('lt', magnitude, constant(0x47800000), finite, special);
  const sign = x.and(x.shift('right', bits, 16), 0x8000);
  return as(x.cast(or(unsigned, sign), 'u16'), 'f16');
}

/** bf16 is the upper half of f32: round it up as above, but keep a NaN one. */
export function f32ToBf16(value: Expr, bind: Bind): Expr {
  const bits = bind(as(value, 'u32'));
  const upper = bind(x.shift('right', bits, 16));
  const rounded = x.shift('right', x.add(x.add(bits, 0x7fff), x.and(upper, 1)), 16);
  const result = x.select('eq', value, value, rounded, orBits(upper, 0x40));
  return as(x.cast(as(result, 'i32'), 'u16'), 'bf16');
}
