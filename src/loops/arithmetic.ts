/**
 * What the operators mean on single values, as the interpreter computes them. Integers are JavaScript numbers
 * in the range of their kind, f32 values are exactly representable, f16 and bf16 values are their bits.
 */
import { LutraError } from '../common/errors.ts';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../common/halves.ts';
import {
  type BinaryOp,
  type CompareOp,
  isInteger,
  isSigned,
  kindBits,
  type ScalarKind,
  type UnaryOp,
} from './ir.ts';

/** Smallest and largest value of an integer kind. */
export function integerRange(kind: ScalarKind): readonly [min: number, max: number] {
  const bits = kindBits(kind);
  return isSigned(kind) ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
}

/** Brings the exact result of one operation into the kind: integers wrap, floats round. */
export function wrapper(kind: ScalarKind): (x: number) => number {
  switch (kind) {
    case 'i8':
      return (x) => (x << 24) >> 24;
    case 'i16':
      return (x) => (x << 16) >> 16;
    case 'i32':
      return (x) => x | 0;
    case 'u8':
      return (x) => x & 0xff;
    case 'u16':
    case 'f16':
    case 'bf16':
      return (x) => x & 0xffff;
    case 'u32':
      return (x) => x >>> 0;
    case 'f32':
      return Math.fround;
  }
}

/** To the nearest integral f32, ties to even; keeps the sign of zero. */
function nearestIntegral(x: number): number {
  const magnitude = Math.abs(x);
  if (!(magnitude < 2 ** 23)) return x; // already integral, infinite or NaN
  // Between 2^23 and 2^24 an f32 has no fraction bits, so the addition rounds.
  const rounded = Math.fround(magnitude + 2 ** 23) - 2 ** 23;
  return x < 0 || Object.is(x, -0) ? -rounded : rounded;
}

function bitCount(byte: number): number {
  let count = 0;
  for (let rest = byte; rest !== 0; rest &= rest - 1) count++;
  return count;
}

export const UNARY: Record<UnaryOp, (x: number) => number> = {
  neg: (x) => -x,
  abs: Math.abs,
  sqrt: Math.sqrt,
  nearest: nearestIntegral,
  popcount: bitCount,
};

/** Exact results, still to be brought into the kind by `wrapper`; products of integers are `Math.imul`. */
export const BINARY: Record<Exclude<BinaryOp, 'rem'>, (x: number, y: number) => number> = {
  add: (x, y) => x + y,
  sub: (x, y) => x - y,
  mul: (x, y) => x * y,
  div: (x, y) => x / y,
  // biome-ignore lint/complexity/useMathMinMax: differs for NaN and for zeros of different sign
  min: (x, y) => (y < x ? y : x),
  // biome-ignore lint/complexity/useMathMinMax: likewise
  max: (x, y) => (x < y ? y : x),
  and: (x, y) => x & y,
  or: (x, y) => x | y,
  xor: (x, y) => x ^ y,
  averageRound: (x, y) => (x + y + 1) >> 1,
};

/** i32 division and remainder, which hardware traps on or leaves undefined where this throws. */
export function checkedDivision(op: 'div' | 'rem', x: number, y: number): number {
  if (y === 0) throw new LutraError('internal', `${op} of ${x} by zero`);
  if (x === -(2 ** 31) && y === -1) throw new LutraError('internal', `${op} of ${x} by -1 overflows`);
  return op === 'div' ? Math.trunc(x / y) | 0 : (x % y) | 0;
}

function truncateToI32(x: number): number {
  if (!(x >= -(2 ** 31) && x < 2 ** 31)) throw new LutraError('internal', `cast of ${x} to i32`);
  return Math.trunc(x) | 0;
}

/** The conversion of a cast from one kind to another. */
export function caster(from: ScalarKind, to: ScalarKind): (x: number) => number {
  if (from === 'f16') return f16ToF32;
  if (from === 'bf16') return bf16ToF32;
  if (to === 'f16') return f32ToF16;
  if (to === 'bf16') return f32ToBf16;
  if (to === 'f32') return Math.fround;
  if (!isInteger(from)) return truncateToI32;
  if (kindBits(to) >= kindBits(from)) return wrapper(to);
  const [min, max] = integerRange(to);
  return (x) => Math.max(min, Math.min(max, x));
}

export const COMPARE: Record<CompareOp, (x: number, y: number) => boolean> = {
  lt: (x, y) => x < y,
  le: (x, y) => x <= y,
  eq: (x, y) => x === y,
  ne: (x, y) => x !== y,
};
