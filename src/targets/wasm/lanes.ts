/**
 * Expressions that only move bytes: repeat, slice, concat, shuffle and bitcast. A tree of them is taken
 * together: every byte of the result is traced to a byte of a value that is not such an expression, and if
 * there are at most two such values, one i8x16.shuffle does it all.
 */
import { type Expr, kindBytes, typeBits } from '../../loops/ir.ts';
import { pushAddress } from './address.ts';
import type { FunctionContext } from './context.ts';
import { shapeOf } from './shapes.ts';

export type Movement = Extract<Expr, { kind: 'repeat' | 'slice' | 'concat' | 'shuffle' | 'bitcast' }>;

interface ByteOf {
  readonly source: Expr;
  readonly byte: number;
}

function sameSource(a: Expr, b: Expr): boolean {
  return a === b || (a.kind === 'ref' && b.kind === 'ref' && a.name === b.name);
}

function distinct(bytes: readonly ByteOf[]): readonly Expr[] {
  const sources: Expr[] = [];
  for (const { source } of bytes) {
    if (!sources.some((known) => sameSource(known, source))) sources.push(source);
  }
  return sources;
}

function bytesOf(source: Expr): readonly ByteOf[] {
  return Array.from({ length: typeBits(source.type) / 8 }, (_, byte) => ({ source, byte }));
}

/** Where every byte of `e` comes from; a subtree with more than two sources counts as one. */
function trace(e: Expr): readonly ByteOf[] {
  if (e.type.lanes === 1 && e.kind !== 'slice') return bytesOf(e);
  switch (e.kind) {
    case 'bitcast':
      return trace(e.a);
    case 'slice': {
      const start = e.start * kindBytes(e.type.kind);
      return trace(e.a).slice(start, start + typeBits(e.type) / 8);
    }
    case 'repeat': {
      const once = trace(e.a);
      return Array.from({ length: e.times }, () => once).flat();
    }
    case 'shuffle': {
      const from = trace(e.a);
      const size = kindBytes(e.type.kind);
      return e.indices.flatMap((index) => from.slice(index * size, (index + 1) * size));
    }
    case 'concat': {
      const bytes = e.parts.flatMap(trace);
      return distinct(bytes).length <= 2 ? bytes : bytesOf(e);
    }
    default:
      return bytesOf(e);
  }
}

/**
 * The lanes of a shuffle from the byte numbers of its result. Bytes above those are free: they are chosen
 * so that engines find a cheap instruction for the pattern.
 */
function fillPattern(bytes: readonly number[]): readonly number[] {
  const count = bytes.length;
  const half = count / 2;
  // The first halves of both operands: continue it as an interleaving of pieces (punpckl, zip1).
  const interleaves = bytes.every((byte, i) => byte === (i < half ? i : 16 + i - half));
  return Array.from({ length: 16 }, (_, i) => {
    if (i < count) return bytes[i]!;
    if (!interleaves) return bytes[i % count]!;
    const piece = Math.floor(i / half);
    return (piece % 2) * 16 + Math.floor(piece / 2) * half + (i % half);
  });
}

function shuffleTraced(ctx: FunctionContext, bytes: readonly ByteOf[]): void {
  const [first, second] = distinct(bytes);
  ctx.vector(first!);
  if (second === undefined) {
    const pattern = fillPattern(bytes.map(({ byte }) => byte));
    if (bytes.every(({ byte }, i) => byte === i)) return;
    ctx.scope(() => {
      const copy = ctx.local('shuffled', 'v128');
      ctx.push('local.tee', copy);
      ctx.push('local.get', copy);
      ctx.push('i8x16.shuffle', ...pattern);
    });
    return;
  }
  ctx.vector(second);
  const numbers = bytes.map(({ source, byte }) => (sameSource(source, first!) ? byte : 16 + byte));
  ctx.push('i8x16.shuffle', ...fillPattern(numbers));
}

const SPLAT_LOADS = {
  8: 'v128.load8_splat',
  16: 'v128.load16_splat',
  32: 'v128.load32_splat',
  64: 'v128.load64_splat',
} as const;

/** Pushes the loaded bytes over and over, if it is a size that can be loaded so. */
export function pushSplatLoad(ctx: FunctionContext, load: Extract<Expr, { kind: 'load' }>): boolean {
  const bits = typeBits(load.type);
  if (bits !== 8 && bits !== 16 && bits !== 32 && bits !== 64) return false;
  const size = kindBytes(load.type.kind);
  const offset = pushAddress(ctx, load.buffer, load.index, size);
  ctx.push(SPLAT_LOADS[bits], Math.log2(size), offset);
  return true;
}

/** The scalars that a tree of concatenations puts together, if that is what it is. */
function scalarParts(e: Expr): readonly Expr[] | undefined {
  if (e.type.lanes === 1) return [e];
  if (e.kind !== 'concat') return undefined;
  const parts = e.parts.map(scalarParts);
  return parts.every((part) => part !== undefined) ? parts.flat() : undefined;
}

/** Pushes a v128. `e` has more than one lane. */
export function emitMovement(ctx: FunctionContext, e: Movement): void {
  if (e.kind === 'repeat' && e.a.kind === 'load' && pushSplatLoad(ctx, e.a)) return;
  // The value of a scalar is in every lane already, whatever lanes they are.
  if ((e.kind === 'repeat' || e.kind === 'bitcast') && e.a.type.lanes === 1 && e.a.kind !== 'slice') {
    ctx.vector(e.a);
    return;
  }
  const scalars = scalarParts(e);
  if (scalars !== undefined) {
    ctx.vector(scalars[0]!);
    scalars.slice(1).forEach((part, i) => {
      ctx.value(part);
      ctx.push(`${shapeOf(e.type.kind)}.replace_lane`, i + 1);
    });
    return;
  }
  const traced = trace(e);
  if (!(e.kind === 'concat' && traced[0]!.source === e)) {
    shuffleTraced(ctx, traced);
    return;
  }
  // A concatenation of more than two sources: each part for itself.
  const [low, high] = e.parts;
  const size = typeBits(low!.type) / 8;
  ctx.vector(low!);
  ctx.vector(high!);
  const bytes = Array.from({ length: 2 * size }, (_, i) => (i < size ? i : 16 + i - size));
  ctx.push('i8x16.shuffle', ...fillPattern(bytes));
}
