/** What the ways to multiply int8 activations by low-bit weights share: shape, schedule, parameters, scaling. */
import { LutraError } from '../common/errors.ts';
import type { BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  and,
  bitcast,
  cast,
  concat,
  constant,
  int,
  lookup128,
  min,
  mul,
  repeat,
  shift,
  sub,
  vector,
} from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { type Multiply, rowStride, type VectorMultiply } from './kernel.ts';
import { forSteps } from './tiles.ts';

export type LowbitShape = {
  readonly m: number;
  readonly k: number;
  readonly residual: boolean;
  /** `one`: a matrix-vector product, good for n = 1 (right for any n); `many`: a matrix product. */
  readonly batch: 'one' | 'many';
  readonly encoding: string;
};

export type LowbitSchedule = {
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
  /** Steps written out in the innermost loop: tiles of 16 columns, or unpacked columns by fours; 1, 2 or 4. */
  readonly unroll: number;
  /** `dot4` on packed codes: sets of accumulators that tiles written out take in turns, so that fewer wait. */
  readonly chains: number;
  /**
   * `dot2`: whether the rows of a tile, where not all of them are in registers, take turns every few tiles. So each
   * line comes from memory while others are multiplied; else it comes all at once, and the second half waits in a cache.
   */
  readonly turns: boolean;
  /** How far ahead packed weights are prefetched; 0: not at all. */
  readonly prefetchBytes: number;
  /** `dot4`: shift the top field down instead of masking it in place, for machines with 7-bit codes. */
  readonly shiftTop: boolean;
};

/** A schedule that is not scalar. */
export type VectorSchedule = LowbitSchedule & { readonly multiply: VectorMultiply };

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

/** Largest code; a trit is code - 1. */
export const MAX_CODE = 2;
/** Rows of a tile, and its bytes. */
export const TILE = 16;
export const TILE_BYTES = 64;

/** What the first code of a byte of `t5b` counts; the others together are less. */
export const LEAD = 81;
/** A multiple of LEAD times this is the quotient, modulo 2^32. */
export const LEAD_INVERSE = 2014922929;

/** How an encoding's tiles are read: the columns of one, and whether the first four lead the bytes of `t5b`. */
export interface TileFormat {
  readonly columns: 16 | 20;
  readonly hasLead: boolean;
}

const FORMATS: Readonly<Record<string, TileFormat>> = {
  i2: { columns: 16, hasLead: false },
  t5b: { columns: 20, hasLead: true },
};

/** Throws `unsupported` for an encoding that has no such tiles. */
export function tileFormat(encoding: string): TileFormat {
  const format = FORMATS[encoding];
  if (format !== undefined) return format;
  throw new LutraError('unsupported', `lowbit.matmul mad cannot read weights encoded as ${encoding}`, {
    hint: `It reads ${Object.keys(FORMATS).join(', ')}.`,
  });
}

/** Bytes of a row of tiles. */
export function tileRowBytes(k: number, { columns }: TileFormat): number {
  return Math.ceil(rowStride(k) / columns) * TILE_BYTES;
}

/** The two halves of the table by which the last four codes of a byte of `t5b` become a byte of `i2`. */
export interface FieldTable {
  readonly low: Expr;
  readonly high: Expr;
}

/** Binds the table; undefined for an encoding that needs none. */
export function fieldTable(b: FunctionBuilder, { hasLead }: TileFormat): FieldTable | undefined {
  if (!hasLead) return undefined;
  const byte = vector('u8', 1);
  const entry = (i: number) => {
    const digit = (weight: number) => Math.floor(i / weight) % 3;
    return i < LEAD ? digit(1) | (digit(3) << 2) | (digit(9) << 4) | (digit(27) << 6) : 0;
  };
  const half = (start: number) =>
    concat(Array.from({ length: 64 }, (_, i) => constant(byte, entry(start + i))));
  return { low: b.let('tableLow', half(0)), high: b.let('tableHigh', half(64)) };
}

/** Bytes of a tile as four 2-bit fields of codes and, where the format has them, `LEAD` times the leading codes. */
export interface TileCodes {
  readonly fields: Expr;
  readonly lead: Expr | undefined;
}

/** The leading codes as such: 81 and 162 have 1 and 2 in their top bits. */
export function leadCodes(lead: Expr): Expr {
  return and(shiftBytes(lead, 6), 3);
}

/** `tile` is bytes as they are in memory. */
export function readTile(b: FunctionBuilder, tile: Expr, table: FieldTable | undefined): TileCodes {
  if (table === undefined) return { fields: tile, lead: undefined };
  // Below 81, subtracting it wraps around to something greater.
  const once = b.let('once', min(tile, sub(tile, LEAD)));
  const rest = b.let('rest', min(once, sub(once, LEAD)));
  const fields = b.let('fields', lookup128(table.low, table.high, rest));
  return { fields, lead: b.let('lead', sub(tile, rest)) };
}

/** A tile of a row of them. */
export interface TileAt {
  /** Its first column. */
  readonly column: Expr;
  /** Its first byte, from the start of the row of tiles. */
  readonly byte: Expr;
  /** Fours of columns that are to be used, the first ones: a last tile may be cut short by `rowStride`. */
  readonly quads: number;
}

/** Walks through the tiles of a row of `k` columns by loops over a number of which columns and bytes are multiples. */
export interface RowWalk {
  /** Counts for one tile, and for all whole ones. */
  readonly step: number;
  readonly end: number;
  /** Fours of columns of a whole tile. */
  readonly quads: number;
  at(count: Expr): TileAt;
  /** What is cut short, if anything. */
  readonly last: TileAt | undefined;
}

export function walkRow(k: number, { columns }: TileFormat): RowWalk {
  const tiles = Math.floor(rowStride(k) / columns);
  const step = columns === 16 ? 16 : 1;
  const times = (count: Expr, factor: number) => (factor === 1 ? count : mul(count, factor));
  const tileAt = (count: Expr, quads: number) => ({
    column: times(count, columns / step),
    byte: times(count, TILE_BYTES / step),
    quads,
  });
  const cut = rowStride(k) % columns;
  const quads = columns / 4;
  return {
    step,
    end: tiles * step,
    quads,
    at: (count) => tileAt(count, quads),
    last: cut === 0 ? undefined : tileAt(int(tiles * step), cut / 4),
  };
}

/** `body` for each tile of a row, `unroll` of them (`u`) written out at a time where that divides their number. */
export function forRowTiles(
  b: FunctionBuilder,
  { step, end, at, last }: RowWalk,
  unroll: number,
  body: (tile: TileAt, u: number) => void,
): void {
  const together = end % (step * unroll) === 0 ? unroll : 1;
  forSteps(b, 0, end, step, together, (count, u) => body(at(count), u));
  if (last !== undefined) body(last, 0);
}

/** Four adjacent activations in front of every one of `rows` rows. */
export function broadcastFour(b: FunctionBuilder, { q }: LowbitParams, at: Expr, rows: number): Expr {
  return b.let('four', repeat(b.load(q, at, 4), rows));
}

/** Bytes shifted as 16-bit lanes: what crosses from one byte to its neighbour must be masked away. */
export function shiftBytes(bytes: Expr, by: number, op: 'left' | 'right' = 'right'): Expr {
  if (by === 0) return bytes;
  const words = vector('u16', bytes.type.lanes / 2);
  return bitcast(shift(op, bitcast(bytes, words), by), bytes.type);
}

/** i8 quadruples (k0 k1 k2 k3) as i16 pairs: the even ones (k0 k2), and the odd ones (k1 k3). */
export function widenPairs(b: FunctionBuilder, four: Expr): readonly [even: Expr, odd: Expr] {
  const words = b.let('words', bitcast(four, vector('i16', four.type.lanes / 2)));
  return [b.let('even', shift('right', shift('left', words, 8), 8)), b.let('odd', shift('right', words, 8))];
}

/** (dots of unsigned codes - sum) * weightScale * scale, for `dots.type.lanes` rows of a token. */
export function scaleRows(
  b: FunctionBuilder,
  { scale, sum, weightScale }: Pick<LowbitParams, 'scale' | 'sum' | 'weightScale'>,
  token: Expr,
  row: Expr,
  dots: Expr,
): Expr {
  const { lanes } = dots.type;
  const exact = cast(sub(dots, repeat(b.load(sum, token), lanes)), 'f32');
  return mul(mul(exact, b.load(weightScale, row, lanes)), repeat(b.load(scale, token), lanes));
}

/** What `scaleRows` gives (+ residual) to where it belongs. */
export function storeRows(
  b: FunctionBuilder,
  p: LowbitParams,
  m: number,
  token: Expr,
  row: Expr,
  dots: Expr,
): void {
  const { residual, out } = p;
  const { lanes } = dots.type;
  const scaled = scaleRows(b, p, token, row, dots);
  const at = b.let('to', add(mul(token, rowStride(m)), row));
  b.store(out, at, residual === undefined ? scaled : add(b.load(residual, at, lanes), scaled));
}
