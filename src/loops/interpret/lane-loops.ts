/**
 * Loops over lanes, one for each operator: a loop that called a function for each lane would see every
 * operator and be slow. Storing into a typed array wraps integers and rounds to f32.
 */
import { LutraError } from '../../common/errors.ts';
import { COMPARE, UNARY } from '../arithmetic.ts';
import type { BinaryOp, CompareOp, UnaryOp } from '../ir.ts';
import type { Lanes } from './frame.ts';

type UnaryLoop = (out: Lanes, x: Lanes) => void;
type BinaryLoop = (out: Lanes, x: Lanes, y: Lanes) => void;

/** A loop that calls a function for each lane, for what is rare. */
export function mapLanes(f: (x: number) => number): UnaryLoop {
  return (out, x) => {
    for (let i = 0; i < out.length; i++) out[i] = f(x[i]!);
  };
}

export const UNARY_LOOPS: Record<UnaryOp, UnaryLoop> = {
  neg: mapLanes(UNARY.neg),
  abs: mapLanes(UNARY.abs),
  sqrt: mapLanes(UNARY.sqrt),
  nearest: mapLanes(UNARY.nearest),
  popcount: mapLanes(UNARY.popcount),
};

export const multiplyIntegers: BinaryLoop = (out, x, y) => {
  for (let i = 0; i < out.length; i++) out[i] = Math.imul(x[i]!, y[i]!);
};

export const BINARY_LOOPS: Record<Exclude<BinaryOp, 'rem'>, BinaryLoop> = {
  add: (out, x, y) => {
    for (let i = 0; i < out.length; i++) out[i] = x[i]! + y[i]!;
  },
  sub: (out, x, y) => {
    for (let i = 0; i < out.length; i++) out[i] = x[i]! - y[i]!;
  },
  mul: (out, x, y) => {
    for (let i = 0; i < out.length; i++) out[i] = x[i]! * y[i]!;
  },
  div: (out, x, y) => {
    for (let i = 0; i < out.length; i++) out[i] = x[i]! / y[i]!;
  },
  min: (out, x, y) => {
    // biome-ignore lint/complexity/useMathMinMax: differs for NaN and for zeros of different sign
    for (let i = 0; i < out.length; i++) out[i] = y[i]! < x[i]! ? y[i]! : x[i]!;
  },
  max: (out, x, y) => {
    // biome-ignore lint/complexity/useMathMinMax: likewise
    for (let i = 0; i < out.length; i++) out[i] = x[i]! < y[i]! ? y[i]! : x[i]!;
  },
  and: (out, x, y) => {
    for (let i = 0; i < out.length; i++) out[i] = x[i]! & y[i]!;
  },
  or: (out, x, y) => {
    for (let i = 0; i < out.length; i++) out[i] = x[i]! | y[i]!;
  },
  xor: (out, x, y) => {
    for (let i = 0; i < out.length; i++) out[i] = x[i]! ^ y[i]!;
  },
  averageRound: (out, x, y) => {
    for (let i = 0; i < out.length; i++) out[i] = (x[i]! + y[i]! + 1) >> 1;
  },
};

export function shiftLeft(out: Lanes, x: Lanes, by: number): void {
  for (let i = 0; i < out.length; i++) out[i] = x[i]! << by;
}

export function shiftRightSigned(out: Lanes, x: Lanes, by: number): void {
  for (let i = 0; i < out.length; i++) out[i] = x[i]! >> by;
}

export function shiftRightUnsigned(out: Lanes, x: Lanes, by: number): void {
  for (let i = 0; i < out.length; i++) out[i] = x[i]! >>> by;
}

export function selectLanes(op: CompareOp, out: Lanes, a: Lanes, b: Lanes, x: Lanes, y: Lanes): void {
  const holds = COMPARE[op];
  for (let i = 0; i < out.length; i++) out[i] = holds(a[i]!, b[i]!) ? x[i]! : y[i]!;
}

export function copyBytes(to: Uint8Array, at: number, from: Uint8Array, start: number, count: number): void {
  for (let i = 0; i < count; i++) to[at + i] = from[start + i]!;
}

export function gatherLanes(out: Lanes, x: Lanes, indices: readonly number[]): void {
  for (let i = 0; i < out.length; i++) out[i] = x[indices[i]!]!;
}

function rejectCode(op: string, code: number, max: number): never {
  throw new LutraError('internal', `${op} promised codes up to ${max} but met ${code}`);
}

export function dot2Lanes(out: Lanes, a: Lanes, b: Lanes, max: number): void {
  for (let i = 0; i < out.length; i++) {
    const [a0, a1] = [a[2 * i]!, a[2 * i + 1]!];
    if (a0 > max || a1 > max) rejectCode('dot2', Math.max(a0, a1), max);
    out[i] = a0 * b[2 * i]! + a1 * b[2 * i + 1]!;
  }
}

export function maddLanes(out: Lanes, a: Lanes, b: Lanes): void {
  for (let i = 0; i < out.length; i++) out[i] = a[2 * i]! * b[2 * i]! + a[2 * i + 1]! * b[2 * i + 1]!;
}

export function dot4Lanes(out: Lanes, acc: Lanes, a: Lanes, b: Lanes, max: number): void {
  for (let i = 0; i < out.length; i++) {
    let sum = acc[i]!;
    for (let j = 4 * i; j < 4 * i + 4; j++) {
      const code = a[j]!;
      if (code > max) rejectCode('dot4', code, max);
      sum += code * b[j]!;
    }
    out[i] = sum;
  }
}

export function lookup16Lanes(out: Lanes, table: Lanes, index: Lanes): void {
  for (let i = 0; i < out.length; i++) {
    const at = index[i]!;
    if (at > 15) rejectCode('lookup16', at, 15);
    out[i] = table[at]!;
  }
}

export function lookup128Lanes(out: Lanes, low: Lanes, high: Lanes, index: Lanes): void {
  for (let i = 0; i < out.length; i++) {
    const at = index[i]!;
    if (at > 127) rejectCode('lookup128', at, 127);
    out[i] = at < 64 ? low[at]! : high[at - 64]!;
  }
}

/** By halving, in the order that `reduce` promises; overwrites `x`. */
export function reduceLanes(loop: BinaryLoop, x: Lanes): number {
  let work = x;
  for (let half = x.length / 2; half >= 1; half /= 2) {
    const low = work.subarray(0, half);
    loop(low, low, work.subarray(half, 2 * half));
    work = low;
  }
  return work[0]!;
}
