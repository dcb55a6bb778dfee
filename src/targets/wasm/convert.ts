/** Casts of vectors: widening, saturating narrowing, between integers and floats. */
import { LutraError } from '../../common/errors.ts';
import { type Expr, isInteger, isSigned, kindBits, type ScalarKind, typeBits } from '../../loops/ir.ts';
import { pushAddress } from './address.ts';
import type { FunctionContext } from './context.ts';
import type { OpName } from './opcodes.ts';
import { constantBytes, shapeOf } from './shapes.ts';

type Cast = Extract<Expr, { kind: 'cast' }>;

/** Widens the lanes of `a` by zeros or by sign; of a slice, straight from the half it lies in. */
function pushWidened(ctx: FunctionContext, a: Expr, toBits: number, signed: boolean): void {
  const sign = signed ? 's' : 'u';
  const bits = kindBits(a.type.kind);
  if (a.kind === 'load' && typeBits(a.type) === 64 && bits * 2 === toBits) {
    const offset = pushAddress(ctx, a.buffer, a.index, bits / 8);
    const op: OpName = bits === 8 ? `v128.load8x8_${sign}` : `v128.load16x4_${sign}`;
    ctx.push(op, 3, offset);
    return;
  }
  // Lanes of `a` begin at lane `start` of the vector on the stack.
  let start = 0;
  if (a.kind === 'slice' && a.start % a.type.lanes === 0 && a.start * bits < 128) {
    start = a.start;
    ctx.vector(a.a);
  } else {
    ctx.vector(a);
  }
  for (let width = bits; width < toBits; width *= 2) {
    const half = 64 / width;
    const part = start >= half ? 'high' : 'low';
    start %= half;
    ctx.push(width === 8 ? `i16x8.extend_${part}_i8x16_${sign}` : `i32x4.extend_${part}_i16x8_${sign}`);
  }
  if (start !== 0) throw new LutraError('internal', 'wasm: a widened slice must be aligned to its size');
}

/** Pushes `a`, no lane above the largest value of `to`: narrowing instructions take their operand as signed. */
function pushClamped(ctx: FunctionContext, a: Expr, to: ScalarKind): void {
  ctx.vector(a);
  const { kind } = a.type;
  if (isSigned(kind)) return;
  ctx.constant(constantBytes(kind, 2 ** (kindBits(to) - (isSigned(to) ? 1 : 0)) - 1));
  ctx.push(kind === 'u16' ? 'i16x8.min_u' : 'i32x4.min_u');
}

function pushNarrow(ctx: FunctionContext, bits: 8 | 16, signed: boolean): void {
  const sign = signed ? 's' : 'u';
  ctx.push(bits === 8 ? `i8x16.narrow_i16x8_${sign}` : `i16x8.narrow_i32x4_${sign}`);
}

/**
 * Pushes the lanes of the parts one after the other, narrowed to `to`. With whole vectors and as many of
 * them as one is wider, each instruction narrows two; a single part is narrowed together with itself.
 */
function pushNarrowed(ctx: FunctionContext, parts: readonly Expr[], to: ScalarKind): void {
  const from = kindBits(parts[0]!.type.kind);
  const toBits = kindBits(to);
  const pair = (write: (index: number) => void, count: number, bits: 8 | 16, signed: boolean) => {
    write(0);
    if (count > 1) {
      write(1);
      pushNarrow(ctx, bits, signed);
      return;
    }
    ctx.scope(() => {
      const copy = ctx.local('narrowed', 'v128');
      ctx.push('local.tee', copy);
      ctx.push('local.get', copy);
      pushNarrow(ctx, bits, signed);
    });
  };
  if (from === 2 * toBits) {
    pair((i) => pushClamped(ctx, parts[i]!, to), parts.length, from === 16 ? 8 : 16, isSigned(to));
    return;
  }
  // From 32 to 8 bits: by way of i16, which keeps what the second step needs to saturate.
  const halfway = (i: number) =>
    pair((j) => pushClamped(ctx, parts[2 * i + j]!, to), Math.min(2, parts.length - 2 * i), 16, true);
  pair(halfway, Math.ceil(parts.length / 2), 8, isSigned(to));
}

function isNarrowing(e: Expr): e is Cast {
  return (
    e.kind === 'cast' &&
    isInteger(e.type.kind) &&
    isInteger(e.a.type.kind) &&
    kindBits(e.type.kind) < kindBits(e.a.type.kind)
  );
}

/** The vectors that a tree of concatenations narrows and joins, if each fills a v128. */
function narrowedParts(e: Expr): readonly Expr[] | undefined {
  if (isNarrowing(e)) return typeBits(e.a.type) === 128 ? [e.a] : undefined;
  if (e.kind !== 'concat') return undefined;
  const parts = e.parts.map(narrowedParts);
  if (!parts.every((part) => part !== undefined)) return undefined;
  const flat = parts.flat();
  return flat.every((part) => part.type.kind === flat[0]!.type.kind) ? flat : undefined;
}

/** Emits a concatenation of narrowing casts of whole vectors, if `e` is one. */
export function emitNarrowedConcat(ctx: FunctionContext, e: Expr): boolean {
  const parts = narrowedParts(e);
  if (parts === undefined || parts.length < 2) return false;
  pushNarrowed(ctx, parts, e.type.kind);
  return true;
}

/** Pushes the v128 of a cast to more than one lane. */
export function emitCast(ctx: FunctionContext, e: Cast): void {
  const { a, type } = e;
  const from = a.type.kind;
  const to = type.kind;
  if (isNarrowing(e)) {
    pushNarrowed(ctx, [a], to);
    return;
  }
  if (isInteger(from) && isInteger(to)) {
    pushWidened(ctx, a, kindBits(to), isSigned(from));
    return;
  }
  if (from === 'bf16' && to === 'f32') {
    pushWidened(ctx, a, 32, false);
    ctx.push('i32.const', 16);
    ctx.push('i32x4.shl');
    return;
  }
  ctx.vector(a);
  if (from === 'i32' && to === 'f32') {
    ctx.push('f32x4.convert_i32x4_s');
    return;
  }
  if (from === 'f32' && to === 'i32') {
    // Out of range either may give anything; the relaxed one is a single instruction on x86.
    ctx.push(ctx.relaxed ? 'i32x4.relaxed_trunc_f32x4_s' : 'i32x4.trunc_sat_f32x4_s');
    return;
  }
  throw new LutraError(
    'internal',
    `wasm: the cast from ${from} to ${to} (${shapeOf(from)}) should have been legalized`,
  );
}
