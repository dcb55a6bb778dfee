/** What the ways to multiply by weights quantized in groups share: shape, schedule, parameters, the order of sums. */
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, and, concat, mul, shift } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { type Multiply, rowStride } from '../kernel.ts';

export type GroupShape = {
  readonly m: number;
  readonly k: number;
  /** 1, 2, 3, 4, 6 or 8 */
  readonly bits: number;
  /** Columns that share a scale of the weights, and of the activations; see `lowbit.matmul.group`. */
  readonly group: number;
  readonly activationGroup: number;
  /** The code that is 0, where `zeros` is `none`. */
  readonly zero: number;
  readonly zeros: 'none' | 'u8' | 'f16' | 'f32';
  readonly scales: 'f16' | 'f32';
  /** Activations, as `quantize.group` writes them: `int16` are two planes of i8. */
  readonly to: 'int8' | 'int16' | 'sums';
  readonly residual: boolean;
  /** `one`: a matrix-vector product, good for n = 1 (right for any n); `many`: a matrix product. */
  readonly batch: 'one' | 'many';
  readonly encoding: string;
};

export type BlockShape = Pick<GroupShape, 'm' | 'k' | 'bits' | 'to' | 'residual' | 'batch' | 'encoding'> & {
  /** Columns that share an integer scale. */
  readonly group: number;
  /** Columns that share the float that scales those, and a scale of the activations; divides k. */
  readonly block: number;
  /** The code that is 0, where there are no minima. */
  readonly zero: number;
  readonly scaleCodes: 'u4' | 'u8' | 'i8';
  /** Integer minima of groups, in units of a second float of the block. */
  readonly zeroCodes: 'none' | 'u4' | 'u8';
};

/** What scales have besides the float of a block. */
export interface BlockParams {
  readonly shape: BlockShape;
  readonly scaleCodes: BufferRef;
  readonly zeroCodes: BufferRef | undefined;
}

export type GroupSchedule = {
  readonly multiply: Multiply;
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
  /** Columns of packed codes written out in the innermost loop, as far as a group has them. */
  readonly unroll: number;
  /** How far ahead packed weights are prefetched; 0: not at all. */
  readonly prefetchBytes: number;
  /** Packed codes are masked where they are in a byte, which saves shifts and takes an accumulator for each place. */
  readonly inPlace: boolean;
};

export interface GroupParams {
  readonly q: BufferRef;
  readonly scale: BufferRef;
  readonly sum: BufferRef;
  readonly weight: BufferRef;
  readonly weightScale: BufferRef;
  readonly residual: BufferRef | undefined;
  readonly zeros: BufferRef | undefined;
  /**
   * What dots of a part of so many columns have added to what they are, an i32; `part` indexes what is stored for the
   * parts of all tokens. Default 0.
   */
  readonly excess?: (width: number, part: Expr) => Expr;
  /** What a dot of 1 counts, a power of two, before that is subtracted. Default 1. */
  readonly unit?: number;
  /** Where scales are integers in units of a block's. */
  readonly blocks?: BlockParams;
  /** Whether a scale is of a whole row, and one of activations of a whole token, as in `lowbit.matmul`. */
  readonly wholeRows?: boolean;
  readonly out: BufferRef;
  readonly n: Expr;
}

export function groupParams(b: FunctionBuilder, { scales, zeros, residual }: GroupShape): GroupParams {
  return {
    q: b.buffer('q', 'i8', 'read'),
    scale: b.buffer('scale', 'f32', 'read'),
    sum: b.buffer('sum', 'i32', 'read'),
    weight: b.buffer('weight', 'u8', 'read'),
    weightScale: b.buffer('weightScale', scales, 'read'),
    residual: residual ? b.buffer('residual', 'f32', 'read') : undefined,
    zeros: zeros === 'none' ? undefined : b.buffer('zeros', zeros, 'read'),
    out: b.buffer('out', 'f32', 'write'),
    n: b.scalar('n'),
  };
}

/** Rows of a tile, and bytes of a column of it, in `code-tiles`. */
export const TILE = 16;
export const columnBytes = (bits: number) => 2 * bits;

/** Planes of i8 that activations are in. */
export const planesOf = ({ to }: Pick<GroupShape, 'to'>) => (to === 'int16' ? 2 : 1);

/** A plane's weight as a power of two: q = 128 * high + low, the high plane first. */
export const PLANE_SHIFT = 7;

/** Distance of a token's activations from the next one's. */
export const tokenStride = (shape: Pick<GroupShape, 'k' | 'to'>) => planesOf(shape) * rowStride(shape.k);

type Parts = Pick<GroupShape, 'k' | 'activationGroup'>;

export const partsOf = ({ k, activationGroup }: Parts) => Math.ceil(k / activationGroup);
export const groupsOf = ({ k, group }: GroupShape) => Math.ceil(k / group);

/** Distance of a token's scales, and of its sums, from the next one's. */
export const partStride = (shape: Parts) => rowStride(partsOf(shape));

/** Some rows of the weights by some tokens, and where they begin. */
export interface Place {
  /** Lanes: rows at a time. */
  readonly rows: number;
  readonly tokens: number;
  /** First token of the call that is meant. */
  readonly token: Expr;
  /** The first of the rows. */
  readonly row: Expr;
}

/** Index of a row in `group-lanes` of so many groups, of group 0. */
function laneOf(b: FunctionBuilder, groups: number, row: Expr): Expr {
  const tile = mul(shift('right', row, 4), groups * TILE);
  return b.let('lane', add(tile, and(row, TILE - 1)));
}

/** Reads what belongs to a group of a place's rows, some of a tile or whole tiles, from `group-lanes` of `groups`. */
export function laneReader(
  b: FunctionBuilder,
  { rows, row }: Place,
  groups: number,
): (buffer: BufferRef, group: Expr) => Expr {
  const lane = laneOf(b, groups, row);
  return (buffer, group) => {
    const at = b.let('at', add(lane, mul(group, TILE)));
    if (rows <= TILE) return b.load(buffer, at, rows);
    const tiles = Array.from({ length: rows / TILE }, (_, i) => add(at, i * groups * TILE));
    return concat(tiles.map((tile) => b.load(buffer, tile, TILE)));
  };
}

/** Sums of a place's tokens, in registers or in memory. */
export interface Totals {
  get(token: number): Expr;
  set(token: number, value: Expr): void;
}

/**
 * Exact dots of codes and activations over `width` columns from column `column`: for every token of the place those of
 * each plane, or the planes joined.
 */
export type PartDots = (column: Expr, width: number) => readonly (readonly Expr[])[];

/** The planes of a token together. */
export function joinPlanes([high, low]: readonly Expr[]): Expr {
  return low === undefined ? high! : add(shift('left', high!, PLANE_SHIFT), low);
}

/** The float result of some rows of a token. */
export function storeResult(
  b: FunctionBuilder,
  { residual, out }: GroupParams,
  { m }: GroupShape,
  token: Expr,
  row: Expr,
  value: Expr,
): void {
  const at = b.let('to', add(mul(token, rowStride(m)), row));
  const { lanes } = value.type;
  b.store(out, at, residual === undefined ? value : add(b.load(residual, at, lanes), value));
}
