/** Functions that no instruction computes, written in the loop IR itself so that every target has the same bits. */
import type { FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  bitcast,
  constant,
  div,
  float,
  max,
  min,
  mul,
  select,
  shift,
  sub,
  unary,
} from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';

/** Below this, e^x is less than the smallest normal f32 and `exp` gives 0. */
const EXP_MIN = Math.fround(-87.33);
const EXP_MAX = 88;

// 1.5 * 2^23: adding it rounds to an integer (ties to even), which then is the low bits of the sum.
const ROUNDING = 12582912;
// ln 2 in two parts; the first has 9 significant bits, so that n * LN2_HIGH is exact.
const LN2_HIGH = 0.693359375;
const LN2_LOW = -2.1219444005469057e-4;
// Minimax for (e^r - 1 - r) / r^2 on +-ln(2)/2, highest power first (Cephes expf by S. L. Moshier).
const COEFFICIENTS = [
  1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
];

/**
 * e^x of f32 lanes, within 1 ulp for -87.33 <= x <= 88; exp(0) is exactly 1. Smaller x gives 0, larger x the
 * value at 88, NaN the value at -87.33.
 */
export function exp(b: FunctionBuilder, x: Expr): Expr {
  const { lanes } = x.type;
  const f = (value: number) => float(value, lanes);
  const clamped = b.let('x', min(max(f(EXP_MIN), x), f(EXP_MAX)));
  const rounded = b.let('rounded', add(mul(clamped, f(Math.LOG2E)), f(ROUNDING)));
  const n = b.let('n', sub(rounded, f(ROUNDING)));
  const r = b.let('r', sub(sub(clamped, mul(n, f(LN2_HIGH))), mul(n, f(LN2_LOW))));
  const [first, ...rest] = COEFFICIENTS;
  // Each step is bound, so that code for parts of a wide vector takes them in turns: alone, one waits for the other.
  const poly = rest.reduce((sum, c) => b.let('poly', add(mul(sum, r), f(c))), f(first!));
  const mantissa = b.let('mantissa', add(add(mul(mul(poly, r), r), r), f(1)));
  // 2^n: the bits of `rounded` are 0x4B400000 + n, and the shift drops all of the first but n.
  const bits = { kind: 'i32', lanes } as const;
  const power = add(shift('left', bitcast(rounded, bits), 23), constant(bits, 127 << 23));
  const value = mul(mantissa, bitcast(power, x.type));
  return select('lt', x, f(EXP_MIN), f(0), value);
}

/** x / (1 + e^-x), within a few ulp; x below -88 gives a value between x e^-88 and 0. */
export function silu(b: FunctionBuilder, x: Expr): Expr {
  const { lanes } = x.type;
  return div(x, add(float(1, lanes), exp(b, unary('neg', x))));
}

/** x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is x / (1 + e^-2u) of u = sqrt(2/pi) (x + 0.044715 x^3). */
export function gelu(b: FunctionBuilder, x: Expr): Expr {
  const { lanes } = x.type;
  const f = (value: number) => float(Math.fround(value), lanes);
  const cubic = add(f(1), mul(f(0.044715), mul(x, x)));
  const u = b.let('u', mul(mul(f(-2 * Math.sqrt(2 / Math.PI)), x), cubic));
  return div(x, add(float(1, lanes), exp(b, u)));
}
