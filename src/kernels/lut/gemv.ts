/** Matrix-vector products by lookups: the weights' bits, 4 columns at a time, index tables of sums of activations. */
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import {
  add,
  and,
  binary,
  bitcast,
  cast,
  concat,
  constant,
  float,
  int,
  lookup16,
  mul,
  shift,
  slice,
  sub,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { LINE_COLUMNS, lineOfColumn, PLANE_BYTES, TILE_ROWS, tileBytes } from '../group/bit-planes.ts';
import { joinPlanes } from '../group/packed.ts';
import { type GroupParams, laneOf, planesOf, storeResult, sumGroups } from '../group/shape.ts';
import { rowStride } from '../kernel.ts';
import type { LutSchedule, LutShape } from './shape.ts';
import { BASE_BITS, BYTE_BIAS, ENTRIES, EXACT_BIAS, QUAD, tableBytes } from './tables.ts';

/** Columns whose lookups are added in bytes. */
const BLOCK = 32;
const QUADS = BLOCK / QUAD;

/** What rounding up adds on average in 3 levels of averages, in eighths of a unit of the mean of 8: a quarter a level. */
const AVERAGE_EXCESS = 6;

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

export interface LutParams extends GroupParams {
  readonly tables: BufferRef;
}

interface Product {
  readonly b: FunctionBuilder;
  readonly p: LutParams;
  readonly shape: LutShape;
  readonly s: LutSchedule;
  /** Byte of the weights where the first of the rows is, in the tile's first line. */
  readonly start: Expr;
  /** Where the token's tables start. */
  readonly table: Expr;
}

/** Sums of bytes in 16-bit words: of whole words, odd bytes counting 256, and of odd bytes alone. */
interface Words {
  readonly all: Expr;
  readonly odd: Expr;
}

/** Sums of the even bytes, then of the odd ones, in the order of rows: words. */
function splitWords({ all, odd }: Words, excess: number): readonly Expr[] {
  const even = sub(all, shift('left', odd, 8));
  return [even, odd].map((sums) => (excess === 0 ? sums : sub(sums, excess)));
}

/** Rows in order, of words of the even bytes and of the odd ones: see `bit-planes`. */
function inRowOrder(even: Expr, odd: Expr): Expr {
  const units = range(even.type.lanes / 8);
  return concat(units.flatMap((u) => [slice(even, 8 * u, 8), slice(odd, 8 * u, 8)]));
}

/** Lookups of 32 columns from `from` on, each in all the tables of its columns: [table][quad] of bytes. */
function lookups(
  { b, p, shape, s, table }: Product,
  from: Expr,
  column: Expr,
  tablesOffset: number,
): readonly (readonly Expr[])[] {
  const perQuad = shape.tables === 'exact' ? 2 : 1;
  const first = b.let('tables', add(table, add(mul(column, (perQuad * ENTRIES) / QUAD), tablesOffset)));
  const found: Expr[][] = range(perQuad).map(() => []);
  for (const line of range(BLOCK / LINE_COLUMNS)) {
    const at = add(from, TILE_ROWS * line);
    if (s.prefetchBytes > 0) b.prefetch(p.weight, add(at, s.prefetchBytes));
    const bytes = b.let('bytes', b.load(p.weight, at, s.lanes));
    const words = bitcast(bytes, vector('u16', s.lanes / 2));
    const high = and(bitcast(shift('right', words, 4), bytes.type), 15);
    for (const [half, nibbles] of [and(bytes, 15), high].entries()) {
      const index = b.let('index', nibbles);
      for (const t of range(perQuad)) {
        const offset = ((2 * line + half) * perQuad + t) * ENTRIES;
        const entries = bitcast(b.load(p.tables, add(first, offset), ENTRIES), vector('u8', ENTRIES));
        found[t]!.push(b.let('found', lookup16(entries, index)));
      }
    }
  }
  return found;
}

/** Averages of neighbours, then of those, ...: a mean, rounded up a little at every level. */
function averages(values: readonly Expr[]): Expr {
  if (values.length === 1) return values[0]!;
  const half = values.length / 2;
  return binary('averageRound', averages(values.slice(0, half)), averages(values.slice(half)));
}

/**
 * Sums over `width` columns of lookups of `lanes` rows by all planes of the weights, plane p counting 2^p; i32, without
 * what entries have added.
 */
function sumPart(product: Product, start: Expr, column: Expr, width: number, tablesOffset: number): Expr {
  const { b, shape, s } = product;
  const { bits, tables } = shape;
  const exact = tables === 'exact';
  const kinds = exact ? 2 : 1;
  const type = vector('u16', s.lanes / 2);
  const entries = tables === 'fast' ? width / BLOCK : width / QUAD;
  const largest = (exact ? 2 ** BASE_BITS - 1 : 255) * entries;
  // Planes add up in words if these are wide enough for all of them.
  const together = largest * (2 ** bits - 1) < 2 ** 16;
  const words: Words[] = range(kinds).map(() => ({
    all: b.var('all', constant(type, 0)),
    odd: b.var('odd', constant(type, 0)),
  }));
  const joined = () => {
    const halves = words.map((sums) => splitWords(sums, 0).map((half) => cast(half, 'i32')));
    const [low, high] = halves as [Expr[], Expr[] | undefined];
    return low.map((half, i) => (high === undefined ? half : add(half, shift('left', high[i]!, BASE_BITS))));
  };
  let wide: readonly Expr[] | undefined;
  for (let plane = bits - 1; plane >= 0; plane--) {
    if (plane < bits - 1) {
      for (const { all, odd } of words) {
        for (const sums of [all, odd]) b.set(sums, together ? shift('left', sums, 1) : constant(type, 0));
      }
    }
    b.for('block', 0, width, BLOCK, (offset) => {
      const at = b.let('at', add(column, offset));
      const from = b.let('from', add(add(start, lineOfColumn(at, bits)), plane * PLANE_BYTES));
      const found = lookups(product, from, at, tablesOffset);
      for (const [i, { all, odd }] of words.entries()) {
        const add2 = (bytes: Expr) => {
          const sums = b.let('sums', bitcast(bytes, type));
          b.set(all, add(all, sums));
          b.set(odd, add(odd, shift('right', sums, 8)));
        };
        if (exact) add2(found[i]!.reduce((sum, bytes) => add(sum, bytes)));
        else if (tables === 'fast') add2(averages(found[i]!));
        else for (const bytes of found[i]!) add2(bytes);
      }
    });
    if (!together) {
      const plain = joined().map((half) => b.let('plane', half));
      wide = plain.map((half, i) =>
        b.let('planes', wide === undefined ? half : add(shift('left', wide[i]!, 1), half)),
      );
    }
  }
  const [even, odd] = wide ?? joined();
  const order = inRowOrder(even!, odd!);
  const planesValue = 2 ** bits - 1;
  if (exact) return sub(order, EXACT_BIAS * entries * planesValue);
  if (tables === 'int8') return sub(order, BYTE_BIAS * entries * planesValue);
  const scaled = shift('left', order, 3);
  return sub(scaled, (QUADS * BYTE_BIAS + AVERAGE_EXCESS) * entries * planesValue);
}

/** Sums of a part of all the rows. */
function partDot(product: Product, column: Expr, width: number): Expr {
  const { b, shape, s, start } = product;
  const planes = shape.tables === 'exact' ? planesOf(shape) : 1;
  const pieces = range(s.rows / s.lanes).map((piece) => {
    const from = piece === 0 ? start : b.let('start', add(start, piece * s.lanes));
    const planeBytes = (rowStride(shape.k) / QUAD) * 2 * ENTRIES;
    const sums = range(planes).map((plane) =>
      b.let('dot', sumPart(product, from, column, width, plane * planeBytes)),
    );
    return b.let('piece', joinPlanes(sums));
  });
  return concat(pieces);
}

/** One tile of 64 rows by all tokens, one after the other. */
export function writeLutTile(
  b: FunctionBuilder,
  p: LutParams,
  shape: LutShape,
  s: LutSchedule,
  tile: Expr,
): void {
  const firstByte = b.let('firstByte', mul(tile, tileBytes(shape)));
  b.for('token', 0, p.n, 1, (token) => {
    const table = b.let('table', mul(token, tableBytes(shape)));
    const someRows = (inTile: Expr) => {
      const row = b.let('row', add(mul(tile, TILE_ROWS), inTile));
      const start = b.let('start', add(firstByte, inTile));
      const place = { rows: s.rows, tokens: 1, token, lane: laneOf(b, shape, row) };
      const total = b.var('total', float(0, s.rows));
      const totals = { get: () => total, set: (_: number, value: Expr) => b.set(total, value) };
      const product: Product = { b, p, shape, s, start, table };
      sumGroups(b, p, shape, place, totals, (column, width) => [partDot(product, column, width)]);
      storeResult(b, p, shape, token, row, total);
    };
    if (s.rows === TILE_ROWS) someRows(int(0));
    else b.for('inTile', 0, TILE_ROWS, s.rows, someRows);
  });
}
