/**
 * Expressions of one lane. Integers narrower than an i32 are kept extended, by sign or by zeros as their
 * kind says; every operation that may leave that range ends in `pushWrapped`.
 */
import { LutraError } from '../../common/errors.ts';
import {
  type CompareOp,
  type Expr,
  isInteger,
  isSigned,
  kindBits,
  kindBytes,
  type ScalarKind,
} from '../../loops/ir.ts';
import { pushAddress, pushSum } from './address.ts';
import type { FunctionContext } from './context.ts';
import type { OpName } from './opcodes.ts';
import { pushLane } from './shapes.ts';

type Of<K extends Expr['kind']> = Extract<Expr, { kind: K }>;

const LOADS: Record<ScalarKind, OpName> = {
  i8: 'i32.load8_s',
  u8: 'i32.load8_u',
  i16: 'i32.load16_s',
  u16: 'i32.load16_u',
  f16: 'i32.load16_u',
  bf16: 'i32.load16_u',
  i32: 'i32.load',
  u32: 'i32.load',
  f32: 'f32.load',
};

/** Brings an i32 on the stack into the range of the kind: integers wrap. */
function pushWrapped(ctx: FunctionContext, kind: ScalarKind): void {
  if (kind === 'i8') ctx.push('i32.extend8_s');
  else if (kind === 'i16') ctx.push('i32.extend16_s');
  else if (kindBits(kind) < 32) {
    ctx.push('i32.const', 2 ** kindBits(kind) - 1);
    ctx.push('i32.and');
  }
}

function pushCompare(ctx: FunctionContext, op: CompareOp, kind: ScalarKind): void {
  if (kind === 'f32') ctx.push(`f32.${op}`);
  else if (op === 'eq' || op === 'ne') ctx.push(`i32.${op}`);
  else ctx.push(`i32.${op}_${kind === 'u32' ? 'u' : 's'}`);
}

function unary(ctx: FunctionContext, { op, a, type }: Of<'unary'>): void {
  const { kind } = type;
  if (kind === 'f32') {
    if (op === 'popcount') throw new LutraError('internal', 'wasm: popcount of f32');
    ctx.value(a);
    ctx.push(`f32.${op}`);
    return;
  }
  switch (op) {
    case 'neg':
      ctx.push('i32.const', 0);
      ctx.value(a);
      ctx.push('i32.sub');
      pushWrapped(ctx, kind);
      break;
    case 'abs': {
      ctx.value(a);
      if (!isSigned(kind)) return;
      // |x| = (x ^ s) - s with s = -1 for negative x, else 0
      ctx.scope(() => {
        const x = ctx.local('x', 'i32');
        const sign = ctx.local('sign', 'i32');
        ctx.push('local.tee', x);
        ctx.push('i32.const', 31);
        ctx.push('i32.shr_s');
        ctx.push('local.tee', sign);
        ctx.push('local.get', x);
        ctx.push('i32.xor');
        ctx.push('local.get', sign);
        ctx.push('i32.sub');
      });
      pushWrapped(ctx, kind);
      break;
    }
    case 'popcount':
      ctx.value(a);
      ctx.push('i32.popcnt');
      break;
    case 'sqrt':
    case 'nearest':
      throw new LutraError('internal', `wasm: ${op} of ${kind}`);
  }
}

/** Pops y then x and pushes the smaller or larger one. */
function pushExtreme(ctx: FunctionContext, which: 'min' | 'max', kind: ScalarKind): void {
  ctx.scope(() => {
    const x = ctx.local('x', 'i32');
    const y = ctx.local('y', 'i32');
    ctx.push('local.set', y);
    ctx.push('local.tee', x);
    ctx.push('local.get', y);
    ctx.push('local.get', x);
    ctx.push('local.get', y);
    ctx.push(`i32.${which === 'min' ? 'le' : 'ge'}_${kind === 'u32' ? 'u' : 's'}`);
    ctx.push('select');
  });
}

function integerBinary(ctx: FunctionContext, { op, a, b, type }: Of<'binary'>): void {
  const { kind } = type;
  ctx.value(a);
  ctx.value(b);
  switch (op) {
    case 'add':
    case 'sub':
    case 'mul':
      ctx.push(`i32.${op}`);
      pushWrapped(ctx, kind);
      break;
    case 'div':
    case 'rem':
      ctx.push(`i32.${op}_s`);
      break;
    case 'and':
    case 'or':
    case 'xor':
      ctx.push(`i32.${op}`);
      break;
    case 'min':
    case 'max':
      pushExtreme(ctx, op, kind);
      break;
    case 'averageRound':
      ctx.push('i32.add');
      ctx.push('i32.const', 1);
      ctx.push('i32.add');
      ctx.push('i32.const', 1);
      ctx.push('i32.shr_u');
      break;
  }
}

function binary(ctx: FunctionContext, e: Of<'binary'>): void {
  if (e.type.kind !== 'f32') {
    integerBinary(ctx, e);
    return;
  }
  switch (e.op) {
    case 'add':
    case 'sub':
    case 'mul':
    case 'div':
      ctx.value(e.a);
      ctx.value(e.b);
      ctx.push(`f32.${e.op}`);
      break;
    default:
      // min and max: one SIMD instruction each, where a scalar select would branch
      fromVector(ctx, e);
      break;
  }
}

function shift(ctx: FunctionContext, { op, a, by, type }: Of<'shift'>): void {
  ctx.value(a);
  ctx.push('i32.const', by);
  if (op === 'left') {
    ctx.push('i32.shl');
    pushWrapped(ctx, type.kind);
  } else {
    ctx.push(isSigned(type.kind) ? 'i32.shr_s' : 'i32.shr_u');
  }
}

/** To a narrower integer: clamps to its range. */
function pushSaturated(ctx: FunctionContext, from: ScalarKind, to: ScalarKind): void {
  const bits = kindBits(to);
  const [low, high] = isSigned(to) ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
  ctx.push('i32.const', high);
  pushExtreme(ctx, 'min', from);
  if (isSigned(from)) {
    ctx.push('i32.const', low);
    pushExtreme(ctx, 'max', from);
  }
}

function cast(ctx: FunctionContext, { a, type }: Of<'cast'>): void {
  const from = a.type.kind;
  const to = type.kind;
  ctx.value(a);
  if (isInteger(from) && isInteger(to)) {
    if (kindBits(to) < kindBits(from)) pushSaturated(ctx, from, to);
    else if (isSigned(from) && !isSigned(to)) pushWrapped(ctx, to);
  } else if (from === 'i32' && to === 'f32') {
    ctx.push('f32.convert_i32_s');
  } else if (from === 'f32' && to === 'i32') {
    ctx.push('i32.trunc_sat_f32_s');
  } else if (from === 'bf16' && to === 'f32') {
    ctx.push('i32.const', 16);
    ctx.push('i32.shl');
    ctx.push('f32.reinterpret_i32');
  } else {
    throw new LutraError('internal', `wasm: the cast from ${from} to ${to} should have been legalized`);
  }
}

function bitcast(ctx: FunctionContext, { a, type }: Of<'bitcast'>): void {
  if (a.type.lanes > 1) {
    ctx.vector(a);
    pushLane(ctx, type.kind, 0);
    return;
  }
  ctx.value(a);
  if (a.type.kind === 'f32') ctx.push('i32.reinterpret_f32');
  else if (type.kind === 'f32') ctx.push('f32.reinterpret_i32');
  else pushWrapped(ctx, type.kind);
}

function fromVector(ctx: FunctionContext, e: Expr): void {
  ctx.vector(e);
  pushLane(ctx, e.type.kind, 0);
}

/** Pushes a value of one lane, as an i32 or f32. */
export function emitScalar(ctx: FunctionContext, e: Expr): void {
  const { kind } = e.type;
  switch (e.kind) {
    case 'const':
      kind === 'f32' ? ctx.push('f32.const', e.value) : ctx.push('i32.const', e.value | 0);
      break;
    case 'ref': {
      const binding = ctx.binding(e.name);
      if (binding.kind === 'sum') pushSum(ctx, binding.sum);
      else ctx.push('local.get', binding.local);
      break;
    }
    case 'load': {
      const size = kindBytes(kind);
      const offset = pushAddress(ctx, e.buffer, e.index, size);
      ctx.push(LOADS[kind], Math.log2(size), offset);
      break;
    }
    case 'unary':
      unary(ctx, e);
      break;
    case 'binary':
      binary(ctx, e);
      break;
    case 'shift':
      shift(ctx, e);
      break;
    case 'compare':
      ctx.value(e.a);
      ctx.value(e.b);
      pushCompare(ctx, e.op, e.a.type.kind);
      break;
    case 'select':
      ctx.value(e.x);
      ctx.value(e.y);
      ctx.value(e.a);
      ctx.value(e.b);
      pushCompare(ctx, e.op, e.a.type.kind);
      ctx.push('select');
      break;
    case 'cast':
      cast(ctx, e);
      break;
    case 'bitcast':
      bitcast(ctx, e);
      break;
    case 'repeat':
      ctx.value(e.a);
      break;
    case 'slice':
      ctx.vector(e.a);
      pushLane(ctx, kind, e.start);
      break;
    case 'shuffle':
      ctx.vector(e.a);
      pushLane(ctx, kind, e.indices[0]!);
      break;
    case 'concat':
      ctx.value(e.parts[0]!);
      break;
    case 'dot2':
    case 'madd':
    case 'dot4':
    case 'lookup16':
      fromVector(ctx, e);
      break;
    case 'lookup128':
    case 'reduce':
      throw new LutraError('internal', `wasm: ${e.kind} should have been legalized`);
  }
}
