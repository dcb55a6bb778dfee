/** Smart constructors: each computes the type of its result and rejects operands that do not fit. */
import { LutraError } from '../common/errors.ts';
import {
  type BinaryOp,
  type CompareOp,
  type Expr,
  isInteger,
  kindBits,
  type ScalarKind,
  sameType,
  typeBits,
  typeName,
  type UnaryOp,
  type ValueType,
} from './ir.ts';

function reject(what: string, ...types: ValueType[]): never {
  throw new LutraError('internal', `loop IR: ${what} (got ${types.map(typeName).join(', ')})`);
}

function expectSame(op: string, a: Expr, b: Expr): void {
  if (!sameType(a.type, b.type)) reject(`${op} needs operands of one type`, a.type, b.type);
}

/** f16 and bf16 values are loaded, moved, cast and stored, but not computed with. */
function expectArithmetic(op: string, a: Expr): void {
  if (a.type.kind === 'f16' || a.type.kind === 'bf16') reject(`${op} on a storage format`, a.type);
}

export const I32: ValueType = { kind: 'i32', lanes: 1 };
export const F32: ValueType = { kind: 'f32', lanes: 1 };

export function vector(kind: ScalarKind, lanes: number): ValueType {
  return { kind, lanes };
}

export function constant(type: ValueType, value: number): Expr {
  return { kind: 'const', type, value: type.kind === 'f32' ? Math.fround(value) : value };
}

/** An i32 scalar constant. */
export function int(value: number): Expr {
  return constant(I32, value);
}

/** An f32 constant in every one of `lanes` lanes. */
export function float(value: number, lanes = 1): Expr {
  return constant(vector('f32', lanes), value);
}

export function ref(name: string, type: ValueType): Expr {
  return { kind: 'ref', name, type };
}

export function binary(op: BinaryOp, a: Expr, b: Expr): Expr {
  expectSame(op, a, b);
  const { kind, lanes } = a.type;
  expectArithmetic(op, a);
  if ((op === 'and' || op === 'or' || op === 'xor') && !isInteger(kind))
    reject(`${op} needs integers`, a.type);
  if (op === 'div' && isInteger(kind) && (kind !== 'i32' || lanes !== 1))
    reject('integer div needs i32 scalars', a.type);
  if (op === 'rem' && (kind !== 'i32' || lanes !== 1)) reject('rem needs i32 scalars', a.type);
  if (op === 'averageRound' && kind !== 'u8' && kind !== 'u16')
    reject('averageRound needs u8 or u16', a.type);
  return { kind: 'binary', op, a, b, type: a.type };
}

export function unary(op: UnaryOp, a: Expr): Expr {
  expectArithmetic(op, a);
  if ((op === 'sqrt' || op === 'nearest') && a.type.kind !== 'f32') reject(`${op} needs f32`, a.type);
  if (op === 'popcount' && a.type.kind !== 'u8') reject('popcount needs u8', a.type);
  return { kind: 'unary', op, a, type: a.type };
}

// i32 scalar arithmetic is mostly addresses: folding constants here keeps printed kernels readable.
function foldInt(op: 'add' | 'sub' | 'mul' | 'div' | 'rem', a: Expr, b: Expr): Expr | undefined {
  if (!sameType(a.type, I32)) return undefined;
  if (a.kind === 'const' && b.kind === 'const') {
    if (op === 'add') return int((a.value + b.value) | 0);
    if (op === 'sub') return int((a.value - b.value) | 0);
    if (op === 'mul') return int(Math.imul(a.value, b.value));
    if (b.value === 0) return undefined;
    return int(op === 'div' ? Math.trunc(a.value / b.value) | 0 : (a.value % b.value) | 0);
  }
  if (b.kind === 'const') {
    if (b.value === 0 && (op === 'add' || op === 'sub')) return a;
    if (b.value === 1 && (op === 'mul' || op === 'div')) return a;
    if (b.value === 0 && op === 'mul') return b;
  }
  if (a.kind === 'const') {
    if (a.value === 0 && op === 'add') return b;
    if (a.value === 1 && op === 'mul') return b;
    if (a.value === 0 && op === 'mul') return a;
  }
  return undefined;
}

function arith(op: 'add' | 'sub' | 'mul' | 'div' | 'rem', a: Expr, b: Expr | number): Expr {
  const right = typeof b === 'number' ? constant(a.type, b) : b;
  return foldInt(op, a, right) ?? binary(op, a, right);
}

/** Arithmetic; a number on the right becomes a constant of the left operand's type. */
export const add = (a: Expr, b: Expr | number): Expr => arith('add', a, b);
export const sub = (a: Expr, b: Expr | number): Expr => arith('sub', a, b);
export const mul = (a: Expr, b: Expr | number): Expr => arith('mul', a, b);
export const div = (a: Expr, b: Expr | number): Expr => arith('div', a, b);
export const rem = (a: Expr, b: Expr | number): Expr => arith('rem', a, b);
export const min = (a: Expr, b: Expr): Expr => binary('min', a, b);
export const max = (a: Expr, b: Expr): Expr => binary('max', a, b);
export const and = (a: Expr, b: Expr | number): Expr =>
  binary('and', a, typeof b === 'number' ? constant(a.type, b) : b);

export function shift(op: 'left' | 'right', a: Expr, by: number): Expr {
  if (!isInteger(a.type.kind) || !Number.isInteger(by) || by < 0 || by >= kindBits(a.type.kind))
    reject(`shift by ${by}`, a.type);
  return by === 0 ? a : { kind: 'shift', op, a, by, type: a.type };
}

export function compare(op: CompareOp, a: Expr, b: Expr): Expr {
  expectSame('compare', a, b);
  expectArithmetic('compare', a);
  if (a.type.lanes !== 1) reject('compare needs scalars', a.type);
  return { kind: 'compare', op, a, b, type: I32 };
}

export function select(op: CompareOp, a: Expr, b: Expr, x: Expr, y: Expr): Expr {
  expectSame('select', a, b);
  expectSame('select', x, y);
  expectArithmetic('select', a);
  expectArithmetic('select', x);
  if (a.type.lanes !== x.type.lanes || kindBits(a.type.kind) !== kindBits(x.type.kind)) {
    reject('select needs equal lanes and bits', a.type, x.type);
  }
  return { kind: 'select', op, a, b, x, y, type: x.type };
}

export function cast(a: Expr, kind: ScalarKind): Expr {
  if (a.type.kind === kind) return a;
  const from = a.type.kind;
  const storage = (k: ScalarKind) => k === 'f16' || k === 'bf16';
  const ok =
    (isInteger(from) && isInteger(kind) && kindBits(from) !== kindBits(kind)) ||
    (from === 'i32' && kind === 'f32') ||
    (from === 'f32' && kind === 'i32') ||
    (storage(from) && kind === 'f32') ||
    (from === 'f32' && storage(kind));
  if (!ok) reject(`no cast to ${kind}`, a.type);
  return { kind: 'cast', a, type: { kind, lanes: a.type.lanes } };
}

export function bitcast(a: Expr, type: ValueType): Expr {
  if (typeBits(a.type) !== typeBits(type)) reject('bitcast needs equal sizes', a.type, type);
  return sameType(a.type, type) ? a : { kind: 'bitcast', a, type };
}

export function repeat(a: Expr, times: number): Expr {
  if (!Number.isInteger(times) || times < 1) reject(`repeat ${times} times`, a.type);
  if (times === 1) return a;
  if (a.kind === 'const') return constant({ kind: a.type.kind, lanes: a.type.lanes * times }, a.value);
  return { kind: 'repeat', a, times, type: { kind: a.type.kind, lanes: a.type.lanes * times } };
}

export function slice(a: Expr, start: number, lanes: number): Expr {
  const whole = Number.isInteger(start) && Number.isInteger(lanes);
  if (!whole || start < 0 || lanes < 1 || start + lanes > a.type.lanes)
    reject(`slice ${start}+${lanes}`, a.type);
  return lanes === a.type.lanes ? a : { kind: 'slice', a, start, type: { kind: a.type.kind, lanes } };
}

export function concat(parts: readonly Expr[]): Expr {
  const first = parts[0];
  if (first === undefined) throw new LutraError('internal', 'loop IR: concat of nothing');
  for (const part of parts) expectSame('concat', first, part);
  if (parts.length === 1) return first;
  return { kind: 'concat', parts, type: { kind: first.type.kind, lanes: first.type.lanes * parts.length } };
}

export function shuffle(a: Expr, indices: readonly number[]): Expr {
  if (indices.length === 0 || indices.some((i) => !Number.isInteger(i) || i < 0 || i >= a.type.lanes)) {
    reject('shuffle index out of range', a.type);
  }
  return { kind: 'shuffle', a, indices, type: { kind: a.type.kind, lanes: indices.length } };
}

function expectCodes(op: string, a: Expr, b: Expr, group: number): number {
  const { lanes } = a.type;
  if (a.type.kind !== 'u8' || b.type.kind !== 'i8' || b.type.lanes !== lanes || lanes % group !== 0) {
    reject(`${op} needs u8 x i8 in groups of ${group}`, a.type, b.type);
  }
  return lanes / group;
}

export function dot2(a: Expr, b: Expr, aMax: number): Expr {
  const lanes = expectCodes('dot2', a, b, 2);
  if (!Number.isInteger(aMax) || aMax < 1 || aMax > 128)
    reject(`dot2 overflows with codes up to ${aMax}`, a.type);
  return { kind: 'dot2', a, b, aMax, type: { kind: 'i16', lanes } };
}

export function madd(a: Expr, b: Expr): Expr {
  expectSame('madd', a, b);
  if (a.type.kind !== 'i16' || a.type.lanes % 2 !== 0) reject('madd needs i16 pairs', a.type);
  return { kind: 'madd', a, b, type: { kind: 'i32', lanes: a.type.lanes / 2 } };
}

/** Adds neighbouring i16 lanes into i32: madd with ones. */
export function addPairs(a: Expr): Expr {
  return madd(a, constant(a.type, 1));
}

export function dot4(acc: Expr, a: Expr, b: Expr, aMax: number): Expr {
  const lanes = expectCodes('dot4', a, b, 4);
  if (acc.type.kind !== 'i32' || acc.type.lanes !== lanes) reject('dot4 needs an i32 accumulator', acc.type);
  if (!Number.isInteger(aMax) || aMax < 1 || aMax > 255) reject(`dot4 with codes up to ${aMax}`, a.type);
  return { kind: 'dot4', acc, a, b, aMax, type: acc.type };
}

export function lookup16(table: Expr, index: Expr): Expr {
  if (table.type.lanes !== 16 || kindBits(table.type.kind) !== 8)
    reject('lookup16 needs 16 bytes', table.type);
  if (index.type.kind !== 'u8') reject('lookup16 needs u8 indices', index.type);
  return { kind: 'lookup16', table, index, type: { kind: table.type.kind, lanes: index.type.lanes } };
}

export function lookup128(low: Expr, high: Expr, index: Expr): Expr {
  expectSame('lookup128', low, high);
  if (low.type.lanes !== 64 || kindBits(low.type.kind) !== 8)
    reject('lookup128 needs two halves of 64 bytes', low.type);
  if (index.type.kind !== 'u8') reject('lookup128 needs u8 indices', index.type);
  return { kind: 'lookup128', low, high, index, type: { kind: low.type.kind, lanes: index.type.lanes } };
}

export function reduce(op: 'add' | 'min' | 'max', a: Expr): Expr {
  expectArithmetic('reduce', a);
  if ((a.type.lanes & (a.type.lanes - 1)) !== 0) reject('reduce needs a power of two lanes', a.type);
  return a.type.lanes === 1 ? a : { kind: 'reduce', op, a, type: { kind: a.type.kind, lanes: 1 } };
}
