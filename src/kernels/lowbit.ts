/** What the ways to multiply int8 activations by low-bit weights share: shape, schedule, parameters, scaling. */
import type { BufferRef, FunctionBuilder } from '../loops/builder.ts';
import { add, bitcast, cast, mul, repeat, shift, sub, vector } from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { rowStride } from './kernel.ts';

export type LowbitShape = {
  readonly m: number;
  readonly k: number;
  readonly residual: boolean;
  /** `one`: a matrix-vector product, good for n = 1 (right for any n); `many`: a matrix product. */
  readonly batch: 'one' | 'many';
  readonly encoding: string;
};

export type LowbitSchedule = {
  /** What multiplies: `dot4` into i32, `dot2` into i16 that are widened in time, `madd` of i16, scalar code. */
  readonly multiply: 'dot4' | 'dot2' | 'madd' | 'scalar';
  /** Rows in registers at a time: 4, 8 or 16, in batch `many` also 32. */
  readonly rows: number;
  /** Tokens in registers at a time; 1 in batch `one`. */
  readonly tokens: number;
  /** Batch `many`: rows whose codes are unpacked at a time, a multiple of 16 and of `rows`. */
  readonly rowBlock: number;
  /** Batch `many`: up to how many tokens unpacking does not pay, */
  readonly few: number;
  /** and how many of those are in registers at a time. */
  readonly fewTokens: number;
  /** Steps written out in the innermost loop: tiles of 16 columns, or unpacked columns by fours; 1, 2 or 4. */
  readonly unroll: number;
  /** How far ahead packed weights are prefetched; 0: not at all. */
  readonly prefetchBytes: number;
  /** `dot4`: shift the top field down instead of masking it in place, for machines with 7-bit codes. */
  readonly shiftTop: boolean;
};

/** A schedule that is not scalar. */
export type VectorSchedule = LowbitSchedule & { readonly multiply: 'dot4' | 'dot2' | 'madd' };

export interface LowbitParams {
  readonly q: BufferRef;
  readonly scale: BufferRef;
  readonly sum: BufferRef;
  readonly weight: BufferRef;
  readonly weightScale: BufferRef;
  readonly residual: BufferRef | undefined;
  readonly out: BufferRef;
  readonly n: Expr;
}

export function lowbitParams(b: FunctionBuilder, residual: boolean): LowbitParams {
  return {
    q: b.buffer('q', 'i8', 'read'),
    scale: b.buffer('scale', 'f32', 'read'),
    sum: b.buffer('sum', 'i32', 'read'),
    weight: b.buffer('weight', 'u8', 'read'),
    weightScale: b.buffer('weightScale', 'f32', 'read'),
    residual: residual ? b.buffer('residual', 'f32', 'read') : undefined,
    out: b.buffer('out', 'f32', 'write'),
    n: b.scalar('n'),
  };
}

/** Largest code of `i2`; a trit is code - 1. */
export const MAX_CODE = 2;
/** Rows and columns of a tile of `i2`, and its bytes. */
export const TILE = 16;
export const TILE_BYTES = 64;

/** Bytes of a row of tiles. */
export function tileRowBytes(k: number): number {
  return (rowStride(k) / TILE) * TILE_BYTES;
}

/** Four adjacent activations in front of every one of `rows` rows. */
export function broadcastFour(b: FunctionBuilder, { q }: LowbitParams, at: Expr, rows: number): Expr {
  return b.let('four', repeat(b.load(q, at, 4), rows));
}

/** Bytes shifted right as 16-bit lanes: what crosses from one byte to its neighbour must be masked away. */
export function shiftBytes(bytes: Expr, by: number): Expr {
  const words = vector('u16', bytes.type.lanes / 2);
  return bitcast(shift('right', bitcast(bytes, words), by), bytes.type);
}

/** i8 quadruples (k0 k1 k2 k3) as i16 pairs: the even ones (k0 k2), and the odd ones (k1 k3). */
export function widenPairs(b: FunctionBuilder, four: Expr): readonly [even: Expr, odd: Expr] {
  const words = b.let('words', bitcast(four, vector('i16', four.type.lanes / 2)));
  return [b.let('even', shift('right', shift('left', words, 8), 8)), b.let('odd', shift('right', words, 8))];
}

/** y = (dots of unsigned codes - sum) * weightScale * scale (+ residual), for `dots.type.lanes` rows of a token. */
export function storeRows(
  b: FunctionBuilder,
  { scale, sum, weightScale, residual, out }: LowbitParams,
  m: number,
  token: Expr,
  row: Expr,
  dots: Expr,
): void {
  const { lanes } = dots.type;
  const exact = cast(sub(dots, repeat(b.load(sum, token), lanes)), 'f32');
  const scaled = mul(mul(exact, b.load(weightScale, row, lanes)), repeat(b.load(scale, token), lanes));
  const at = b.let('to', add(mul(token, rowStride(m)), row));
  b.store(out, at, residual === undefined ? scaled : add(b.load(residual, at, lanes), scaled));
}
