/**
 * Expressions as v128. Values of fewer bits lie in the low bytes and what is above them is arbitrary; a
 * scalar wanted as a vector is in every lane.
 */
import { LutraError } from '../../common/errors.ts';
import { type Expr, isSigned, kindBytes, typeBits } from '../../loops/ir.ts';
import { pushAddress } from './address.ts';
import type { FunctionContext } from './context.ts';
import { emitCast, emitNarrowedConcat } from './convert.ts';
import { emitMovement, pushSplatLoad } from './lanes.ts';
import { constantBytes, pushLane, shapeOf } from './shapes.ts';

type Of<K extends Expr['kind']> = Extract<Expr, { kind: K }>;

function load(ctx: FunctionContext, e: Of<'load'>): void {
  const bits = typeBits(e.type);
  if (bits === 16) {
    pushSplatLoad(ctx, e);
    return;
  }
  const size = kindBytes(e.type.kind);
  const offset = pushAddress(ctx, e.buffer, e.index, size);
  const op = bits === 128 ? 'v128.load' : bits === 64 ? 'v128.load64_zero' : 'v128.load32_zero';
  ctx.push(op, Math.log2(size), offset);
}

function unary(ctx: FunctionContext, { op, a, type }: Of<'unary'>): void {
  ctx.vector(a);
  const shape = shapeOf(type.kind);
  switch (op) {
    case 'neg':
      ctx.push(`${shape}.neg`);
      break;
    case 'abs':
      if (shape === 'f32x4' || isSigned(type.kind)) ctx.push(`${shape}.abs`);
      return;
    case 'sqrt':
    case 'nearest':
      ctx.push(`f32x4.${op}`);
      break;
    case 'popcount':
      ctx.push('i8x16.popcnt');
      break;
  }
}

/** Bytes have no shifts of their own on x86: 16-bit lanes are shifted, then masked. */
function pushByteShift(ctx: FunctionContext, { op, a, by, type }: Of<'shift'>, mask: number): void {
  ctx.vector(a);
  ctx.push('i32.const', by);
  ctx.push(op === 'left' ? 'i16x8.shl' : 'i16x8.shr_u');
  ctx.constant(constantBytes(type.kind, mask));
  ctx.push('v128.and');
}

/** The bits of a byte that a shift can leave set: shifted in from its own byte, not from the neighbour. */
function ownBits({ op, by }: Of<'shift'>): number {
  return op === 'left' ? (0xff << by) & 0xff : 0xff >> by;
}

function shift(ctx: FunctionContext, e: Of<'shift'>): void {
  const { op, a, by, type } = e;
  const shape = shapeOf(type.kind);
  if (shape === 'f32x4') throw new LutraError('internal', 'wasm: shift of floats');
  const sign = isSigned(type.kind) ? 's' : 'u';
  if (shape === 'i8x16' && (op === 'left' || sign === 'u')) {
    pushByteShift(ctx, e, ownBits(e));
    return;
  }
  ctx.vector(a);
  ctx.push('i32.const', by);
  if (shape === 'i8x16') ctx.push('i8x16.shr_s');
  else ctx.push(op === 'left' ? `${shape}.shl` : `${shape}.shr_${sign}`);
}

/** `shift & mask` of bytes, one mask for both; false if `e` is not that. */
function maskedShift(ctx: FunctionContext, { a, b }: Of<'binary'>): boolean {
  const [shifted, mask] = b.kind === 'const' ? [a, b] : [b, a];
  if (shifted.kind !== 'shift' || mask.kind !== 'const' || kindBytes(mask.type.kind) !== 1) return false;
  const bits = mask.value & 0xff;
  const own = ownBits(shifted);
  // An arithmetic shift fills the other bits with the sign.
  if (shifted.op === 'right' && isSigned(shifted.type.kind) && (bits & ~own) !== 0) return false;
  pushByteShift(ctx, shifted, bits & own);
  return true;
}

/** Products of bytes, from those of the even and of the odd bytes in 16-bit lanes. */
function multiplyBytes(ctx: FunctionContext, a: Expr, b: Expr): void {
  ctx.scope(() => {
    const x = ctx.local('x', 'v128');
    const y = ctx.local('y', 'v128');
    ctx.vector(a);
    ctx.push('local.set', x);
    ctx.vector(b);
    ctx.push('local.set', y);
    ctx.push('local.get', x);
    ctx.push('local.get', y);
    ctx.push('i16x8.mul');
    ctx.constant(constantBytes('u16', 0x00ff));
    ctx.push('v128.and');
    for (const operand of [x, y]) {
      ctx.push('local.get', operand);
      ctx.push('i32.const', 8);
      ctx.push('i16x8.shr_u');
    }
    ctx.push('i16x8.mul');
    ctx.push('i32.const', 8);
    ctx.push('i16x8.shl');
    ctx.push('v128.or');
  });
}

function binary(ctx: FunctionContext, e: Of<'binary'>): void {
  const { op, a, b, type } = e;
  const shape = shapeOf(type.kind);
  if (op === 'and' && maskedShift(ctx, e)) return;
  if (op === 'mul' && shape === 'i8x16') {
    multiplyBytes(ctx, a, b);
    return;
  }
  ctx.vector(a);
  ctx.vector(b);
  switch (op) {
    case 'add':
    case 'sub':
      ctx.push(`${shape}.${op}`);
      break;
    case 'mul':
      if (shape !== 'i8x16') ctx.push(`${shape}.mul`);
      break;
    case 'div':
      ctx.push('f32x4.div');
      break;
    case 'min':
    case 'max':
      if (shape === 'f32x4') {
        ctx.push(`f32x4.p${op}`);
        return;
      }
      ctx.push(`${shape}.${op}_${isSigned(type.kind) ? 's' : 'u'}`);
      break;
    case 'and':
    case 'or':
    case 'xor':
      ctx.push(`v128.${op}`);
      break;
    case 'averageRound':
      ctx.push(type.kind === 'u8' ? 'i8x16.avgr_u' : 'i16x8.avgr_u');
      break;
    case 'rem':
      throw new LutraError('internal', 'wasm: rem of vectors');
  }
}

function select(ctx: FunctionContext, { op, a, b, x, y }: Of<'select'>): void {
  ctx.vector(x);
  ctx.vector(y);
  ctx.vector(a);
  ctx.vector(b);
  const { kind } = a.type;
  const shape = shapeOf(kind);
  if (op === 'eq' || op === 'ne') ctx.push(`${shape}.${op}`);
  else if (shape === 'f32x4') ctx.push(`f32x4.${op}`);
  else ctx.push(`${shape}.${op}_${isSigned(kind) ? 's' : 'u'}`);
  // Lanes of the mask are all ones or all zeros: there the relaxed form is exact.
  ctx.push(ctx.relaxed ? 'i8x16.relaxed_laneselect' : 'v128.bitselect');
}

type Product = Of<'dot2' | 'dot4' | 'madd' | 'lookup16'>;

function product(ctx: FunctionContext, e: Product): void {
  switch (e.kind) {
    case 'dot2':
      // The second operand is the one of 7 bits.
      ctx.vector(e.b);
      ctx.vector(e.a);
      ctx.push('i16x8.relaxed_dot_i8x16_i7x16_s');
      break;
    case 'dot4':
      ctx.vector(e.b);
      ctx.vector(e.a);
      ctx.vector(e.acc);
      ctx.push('i32x4.relaxed_dot_i8x16_i7x16_add_s');
      break;
    case 'madd':
      ctx.vector(e.a);
      if (e.b.kind === 'const' && e.b.value === 1) {
        ctx.push('i32x4.extadd_pairwise_i16x8_s');
        break;
      }
      ctx.vector(e.b);
      ctx.push('i32x4.dot_i16x8_s');
      break;
    case 'lookup16':
      ctx.vector(e.table);
      ctx.vector(e.index);
      ctx.push(ctx.relaxed ? 'i8x16.relaxed_swizzle' : 'i8x16.swizzle');
      break;
  }
  if (e.type.lanes === 1) {
    pushLane(ctx, e.type.kind, 0);
    ctx.push(`${shapeOf(e.type.kind)}.splat`);
  }
}

/** Pushes a value as a v128. */
export function emitVector(ctx: FunctionContext, e: Expr): void {
  const { kind, lanes } = e.type;
  switch (e.kind) {
    case 'const':
      ctx.constant(constantBytes(kind, e.value));
      return;
    case 'dot2':
    case 'dot4':
    case 'madd':
    case 'lookup16':
      product(ctx, e);
      return;
    case 'load':
      if (lanes > 1) {
        load(ctx, e);
        return;
      }
      pushSplatLoad(ctx, e);
      return;
    case 'binary':
      // Scalar f32 min and max exist only as vector instructions.
      if (lanes > 1 || (kind === 'f32' && (e.op === 'min' || e.op === 'max'))) {
        binary(ctx, e);
        return;
      }
      break;
    default:
      break;
  }
  if (lanes === 1) {
    ctx.value(e);
    ctx.push(`${shapeOf(kind)}.splat`);
    return;
  }
  switch (e.kind) {
    case 'ref':
      ctx.push('local.get', ctx.localOf(e.name));
      break;
    case 'unary':
      unary(ctx, e);
      break;
    case 'shift':
      shift(ctx, e);
      break;
    case 'select':
      select(ctx, e);
      break;
    case 'cast':
      emitCast(ctx, e);
      break;
    case 'concat':
      if (emitNarrowedConcat(ctx, e)) return;
      emitMovement(ctx, e);
      break;
    case 'repeat':
    case 'slice':
    case 'shuffle':
    case 'bitcast':
      emitMovement(ctx, e);
      break;
    case 'lookup128':
    case 'reduce':
    case 'compare':
      throw new LutraError('internal', `wasm: ${e.kind} should have been legalized`);
  }
}
