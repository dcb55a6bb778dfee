/**
 * The loop IR: structured loops over flat buffers, with vectors of any width as ordinary values.
 *
 * Everything is plain data. A `LoopFunction` is one kernel; a `Program` is the kernels of a model and the
 * `main` function that calls them in order, which is one forward step. The interpreter (`interpret.ts`)
 * defines what every construct means, bit for bit, floats included: float operations are single IEEE 754
 * binary32 operations in the order written and are never fused or reordered, so every target that follows
 * the interpreter gives the same bits. Only which NaN a NaN is stays open.
 */

/** What a lane holds. `f16` and `bf16` are storage formats: a value of them is only loaded, cast and stored. */
export type ScalarKind = 'i8' | 'u8' | 'i16' | 'u16' | 'i32' | 'u32' | 'f32' | 'f16' | 'bf16';

/** A value's type: `lanes` scalars; 1 lane is a scalar. */
export interface ValueType {
  readonly kind: ScalarKind;
  readonly lanes: number;
}

/** Lane-wise, both operands of the same type. Integers wrap. */
export type BinaryOp =
  | 'add'
  | 'sub'
  | 'mul'
  | 'div' // f32 any lanes (IEEE); i32 scalars only (truncates; the interpreter rejects x / 0 and -2^31 / -1)
  | 'rem' // i32 scalars only, the sign of the dividend
  | 'min' // min(a, b) = b < a ? b : a   (f32: wasm pmin, x86 minps(b, a))
  | 'max' // max(a, b) = a < b ? b : a   (f32: wasm pmax, x86 maxps(b, a))
  | 'and' // and, or, xor: integers only
  | 'or'
  | 'xor'
  | 'averageRound'; // u8, u16: (a + b + 1) >> 1 without overflow (pavgb, rhadd)

export type UnaryOp =
  | 'neg' // f32: flips the sign bit; integers wrap
  | 'abs' // f32: clears the sign bit; integers wrap
  | 'sqrt' // f32
  | 'nearest' // f32 to integral f32, ties to even
  | 'popcount'; // u8: number of set bits

export type CompareOp = 'lt' | 'le' | 'eq' | 'ne';

/** An immutable, side-effect free expression. Sharing a subtree means nothing: bind it with `let` instead. */
export type Expr =
  /** The same value in every lane. Integers must fit the kind; f32 values must be exactly representable. */
  | { readonly kind: 'const'; readonly type: ValueType; readonly value: number }
  /** Reads a `let`, a `var`, a loop variable or a scalar parameter. */
  | { readonly kind: 'ref'; readonly name: string; readonly type: ValueType }
  /**
   * `type.lanes` consecutive elements from element `index` (an i32 scalar); no alignment is promised. The
   * sums and products that make up an index must not overflow on the way, here and in stores: targets may
   * compute them in more bits.
   */
  | { readonly kind: 'load'; readonly buffer: string; readonly index: Expr; readonly type: ValueType }
  | { readonly kind: 'unary'; readonly op: UnaryOp; readonly a: Expr; readonly type: ValueType }
  | {
      readonly kind: 'binary';
      readonly op: BinaryOp;
      readonly a: Expr;
      readonly b: Expr;
      readonly type: ValueType;
    }
  /** Shifts every integer lane by a constant, 0 <= by < bits; right shifts are arithmetic on signed kinds. */
  | {
      readonly kind: 'shift';
      readonly op: 'left' | 'right';
      readonly a: Expr;
      readonly by: number;
      readonly type: ValueType;
    }
  /** Compares two scalars of one type; an i32, 1 or 0. */
  | {
      readonly kind: 'compare';
      readonly op: CompareOp;
      readonly a: Expr;
      readonly b: Expr;
      readonly type: ValueType;
    }
  /** Lane-wise `a op b ? x : y`. All four have the same lanes; the kinds of a, b and of x, y have equal bits. */
  | {
      readonly kind: 'select';
      readonly op: CompareOp;
      readonly a: Expr;
      readonly b: Expr;
      readonly x: Expr;
      readonly y: Expr;
      readonly type: ValueType;
    }
  /**
   * Changes the kind of every lane: int to wider int (by the source's sign), int to narrower int
   * (saturating to the target's range), i32 to f32 (ties to even), f32 to i32 (truncates; out of range or
   * NaN is an error in the interpreter and undefined on targets), f16/bf16 to f32 (exact), f32 to f16/bf16
   * (ties to even).
   */
  | { readonly kind: 'cast'; readonly a: Expr; readonly type: ValueType }
  /** The same bytes (little endian) seen as another type of equal total size. */
  | { readonly kind: 'bitcast'; readonly a: Expr; readonly type: ValueType }
  /** The lanes of `a`, `times` times over: repeat([x y], 2) = [x y x y]. Of a scalar, a broadcast. */
  | { readonly kind: 'repeat'; readonly a: Expr; readonly times: number; readonly type: ValueType }
  /** Lanes start .. start + type.lanes of `a`. */
  | { readonly kind: 'slice'; readonly a: Expr; readonly start: number; readonly type: ValueType }
  /** The lanes of all parts, in order. All parts have one type. */
  | { readonly kind: 'concat'; readonly parts: readonly Expr[]; readonly type: ValueType }
  /** Lane i of the result is lane indices[i] of `a`. */
  | {
      readonly kind: 'shuffle';
      readonly a: Expr;
      readonly indices: readonly number[];
      readonly type: ValueType;
    }
  /**
   * u8 x i8 -> i16, pairs: r[i] = a[2i] b[2i] + a[2i+1] b[2i+1] (vpmaddubsw, relaxed dot).
   * Promise: every lane of `a` is <= aMax, and 256 * aMax <= 32768 so that nothing overflows; the
   * interpreter checks both.
   */
  | {
      readonly kind: 'dot2';
      readonly a: Expr;
      readonly b: Expr;
      readonly aMax: number;
      readonly type: ValueType;
    }
  /** i16 x i16 -> i32, pairs: r[i] = a[2i] b[2i] + a[2i+1] b[2i+1], wrapping (vpmaddwd, i32x4.dot_i16x8_s). */
  | { readonly kind: 'madd'; readonly a: Expr; readonly b: Expr; readonly type: ValueType }
  /**
   * u8 x i8 -> i32, fours, accumulated: r[i] = acc[i] + sum over j < 4 of a[4i+j] b[4i+j] (vpdpbusd).
   * Promise: every lane of `a` is <= aMax (<= 255); the interpreter checks it.
   */
  | {
      readonly kind: 'dot4';
      readonly acc: Expr;
      readonly a: Expr;
      readonly b: Expr;
      readonly aMax: number;
      readonly type: ValueType;
    }
  /** r[i] = table[index[i]]: table is 16 lanes of u8 or i8, index u8 lanes < 16 (checked) (pshufb, tbl, swizzle). */
  | { readonly kind: 'lookup16'; readonly table: Expr; readonly index: Expr; readonly type: ValueType }
  /**
   * r[i] = [low, high][index[i]]: the table is two halves of 64 lanes of u8 or i8, index u8 lanes < 128 (checked)
   * (vpermi2b).
   */
  | {
      readonly kind: 'lookup128';
      readonly low: Expr;
      readonly high: Expr;
      readonly index: Expr;
      readonly type: ValueType;
    }
  /**
   * All lanes to one scalar by halving: [a b c d] -> [a+c b+d] -> (a+c)+(b+d). Lanes must be a power of
   * two. The order is part of the meaning, so that floats agree on every width of machine.
   */
  | {
      readonly kind: 'reduce';
      readonly op: 'add' | 'min' | 'max';
      readonly a: Expr;
      readonly type: ValueType;
    };

/**
 * How the iterations of a loop run. `thread`: split among the threads of the team; only the outermost
 * loop of a function may have it, from 0 with step 1, and its iterations must not depend on each other.
 */
export type Binding = 'serial' | 'unrolled' | 'thread';

export type Stmt =
  /** Binds an immutable name, visible in the rest of the block. */
  | { readonly kind: 'let'; readonly name: string; readonly value: Expr }
  /** Declares a mutable register, visible in the rest of the block. */
  | { readonly kind: 'var'; readonly name: string; readonly init: Expr }
  | { readonly kind: 'assign'; readonly name: string; readonly value: Expr }
  /** Writes the value's lanes to consecutive elements from element `index`. */
  | { readonly kind: 'store'; readonly buffer: string; readonly index: Expr; readonly value: Expr }
  /**
   * variable = from, from + step, ... while < to. All i32, the bounds evaluated once, before the loop; step
   * >= 1; `unrolled` needs constant bounds.
   */
  | {
      readonly kind: 'for';
      readonly variable: string;
      readonly from: Expr;
      readonly to: Expr;
      readonly step: number;
      readonly binding: Binding;
      readonly body: readonly Stmt[];
    }
  /** The condition is an i32 scalar; anything but 0 is true. */
  | {
      readonly kind: 'if';
      readonly condition: Expr;
      readonly whenTrue: readonly Stmt[];
      readonly whenFalse: readonly Stmt[];
    }
  /** A hint: bring the cache line of that element near. Out of range is harmless. */
  | { readonly kind: 'prefetch'; readonly buffer: string; readonly index: Expr }
  /**
   * Only in `main`: runs a kernel, its thread loop split among the team. Each buffer argument is a buffer
   * of main and an offset in lines of 64 bytes. The memory that a kernel writes through one argument is that
   * of another argument only where both have the same buffer and offset; then it is the same from the start.
   */
  | {
      readonly kind: 'call';
      readonly fn: string;
      readonly buffers: readonly BufferArg[];
      readonly scalars: readonly Expr[];
    }
  /** Only in `main`: waits until every thread of the team is here. */
  | { readonly kind: 'barrier' };

export interface BufferArg {
  readonly buffer: string;
  /** In lines of 64 bytes, an i32 scalar. */
  readonly offset: Expr;
}

/**
 * Parameters of one element kind may be the same memory, as long as no iteration of the thread loop reads what
 * another one writes, and no statement reads what an earlier one wrote through another parameter.
 */
export interface BufferParam {
  readonly name: string;
  readonly elem: ScalarKind;
  readonly access: 'read' | 'write' | 'readwrite';
}

export interface ScalarParam {
  readonly name: string;
  readonly kind: 'i32' | 'f32';
}

/** Scratch memory private to one thread, uninitialized, 64-byte aligned. */
export interface StackBuffer {
  readonly name: string;
  readonly elem: ScalarKind;
  readonly size: number;
}

/**
 * One kernel. Buffers and scalars are its parameters, in order. All names in a function are distinct; they
 * are letters, digits and `_`, and not the keywords of the text form (`KEYWORDS` in `print.ts`).
 */
export interface LoopFunction {
  readonly name: string;
  readonly buffers: readonly BufferParam[];
  readonly scalars: readonly ScalarParam[];
  readonly locals: readonly StackBuffer[];
  readonly body: readonly Stmt[];
}

/** The code of a model: kernels, and the function that is one forward step. */
export interface Program {
  readonly functions: readonly LoopFunction[];
  /** Its buffers and scalars are those of `MAIN_BUFFERS` and `MAIN_SCALARS`. */
  readonly main: LoopFunction;
}

/** Bytes of a line, the unit of buffer offsets in `main` and the alignment of everything placed in memory. */
export const LINE = 64;

/**
 * The memory a forward step sees. `cache` is the KV caches of all sequences there are; `tokens`, `sequences`
 * and `outputs` say what this step is to compute (`step.ts` draws them).
 */
export const MAIN_BUFFERS: readonly BufferParam[] = [
  { name: 'weights', elem: 'u8', access: 'read' },
  { name: 'arena', elem: 'u8', access: 'readwrite' },
  { name: 'cache', elem: 'u8', access: 'readwrite' },
  { name: 'tokens', elem: 'i32', access: 'read' },
  { name: 'sequences', elem: 'i32', access: 'read' },
  { name: 'outputs', elem: 'i32', access: 'read' },
  { name: 'logits', elem: 'f32', access: 'write' },
];

/** n tokens of count sequences, one sequence after the other. */
export const MAIN_SCALARS: readonly ScalarParam[] = [
  { name: 'n', kind: 'i32' },
  { name: 'count', kind: 'i32' },
];

const BITS: Record<ScalarKind, number> = {
  i8: 8,
  u8: 8,
  i16: 16,
  u16: 16,
  i32: 32,
  u32: 32,
  f32: 32,
  f16: 16,
  bf16: 16,
};

export function kindBits(kind: ScalarKind): number {
  return BITS[kind];
}

export function kindBytes(kind: ScalarKind): number {
  return BITS[kind] / 8;
}

export function isSigned(kind: ScalarKind): boolean {
  return kind === 'i8' || kind === 'i16' || kind === 'i32';
}

export function isInteger(kind: ScalarKind): boolean {
  return kind !== 'f32' && kind !== 'f16' && kind !== 'bf16';
}

/** The whole value's size in bits. */
export function typeBits(type: ValueType): number {
  return BITS[type.kind] * type.lanes;
}

export function sameType(a: ValueType, b: ValueType): boolean {
  return a.kind === b.kind && a.lanes === b.lanes;
}

/** As the printer writes it: `f32`, `u8x64`. */
export function typeName(type: ValueType): string {
  return type.lanes === 1 ? type.kind : `${type.kind}x${type.lanes}`;
}
