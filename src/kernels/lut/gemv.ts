/** Matrix-vector products by lookups: the weights' bits, 4 columns at a time, index tables of sums of activations. */
import { range } from '../../common/math.ts';
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import {
  add,
  and,
  bitcast,
  cast,
  concat,
  float,
  int,
  lookup16,
  mul,
  shift,
  slice,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { LINE_COLUMNS, lineOfColumn, PLANE_BYTES, SPAN, TILE_ROWS, tileBytes } from '../group/bit-planes.ts';
import { type GroupParams, joinPlanes, planesOf, storeResult } from '../group/shape.ts';
import { sumGroups } from '../group/sums.ts';
import { rowStride } from '../kernel.ts';
import type { LutSchedule, LutShape } from './shape.ts';
import { type Adder, adderOf } from './sums.ts';
import { ENTRIES, QUAD, tableBytes } from './tables.ts';

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

/** Rows in order, of words of the even bytes and of the odd ones: see `bit-planes`. */
export function inRowOrder(even: Expr, odd: Expr): Expr {
  const units = range(even.type.lanes / 8);
  return concat(units.flatMap((u) => [slice(even, 8 * u, 8), slice(odd, 8 * u, 8)]));
}

/** Looks up a span of a plane in all the tables of its columns; gives `body` the table's number and bytes. */
function forLookups(
  { b, p, shape, s }: Product,
  from: Expr,
  tables: Expr,
  body: (kind: number, found: Expr) => void,
): void {
  const perQuad = shape.tables === 'exact' ? 2 : 1;
  for (let line = 0; line < SPAN / LINE_COLUMNS; line++) {
    const at = add(from, TILE_ROWS * line);
    if (s.prefetchBytes > 0) b.prefetch(p.weight, add(at, s.prefetchBytes));
    const bytes = b.let('bytes', b.load(p.weight, at, s.lanes));
    for (const half of [0, 1]) {
      const words = bitcast(bytes, vector('u16', s.lanes / 2));
      const moved = half === 0 ? bytes : bitcast(shift('right', words, 4), bytes.type);
      const index = b.let('index', and(moved, 15));
      for (let kind = 0; kind < perQuad; kind++) {
        const offset = ((2 * line + half) * perQuad + kind) * ENTRIES;
        const entries = bitcast(b.load(p.tables, add(tables, offset), ENTRIES), vector('u8', ENTRIES));
        body(kind, b.let('found', lookup16(entries, index)));
      }
    }
  }
}

/** Columns that `Adder` adds up at a time, of a part of `width`: a power of two that divides it. */
function chunkOf(width: number, most: number): number {
  let chunk = SPAN;
  while (chunk < most && width % (2 * chunk) === 0) chunk *= 2;
  return chunk;
}

/**
 * Sums over `width` columns of lookups of `lanes` rows by all planes of the weights, plane p counting 2^p; i32, with
 * what entries have added, and of `fast` tables in units of `MEANS`.
 */
function sumPart(product: Product, start: Expr, column: Expr, width: number, tablesOffset: number): Expr {
  const { b, shape, s, table } = product;
  const { bits } = shape;
  const perQuad = shape.tables === 'exact' ? 2 : 1;
  const adder: Adder = adderOf(b, shape.tables, s);
  const chunk = chunkOf(width, adder.columns);
  const line = b.let('line', add(start, lineOfColumn(column, bits)));
  const tables = b.let('tables', add(table, add(mul(column, (perQuad * ENTRIES) / QUAD), tablesOffset)));

  /** A chunk by one plane. */
  const sumPlane = (offset: Expr, plane: number): readonly Expr[] => {
    const sums = adder.start();
    for (let at = 0; at < chunk; at += SPAN) {
      const spans = add(mul(offset, (bits * PLANE_BYTES) / SPAN), (at / SPAN) * bits * PLANE_BYTES);
      const entries = add(mul(offset, (perQuad * ENTRIES) / QUAD), (at * perQuad * ENTRIES) / QUAD);
      const from = b.let('from', add(line, add(spans, plane * PLANE_BYTES)));
      forLookups(product, from, b.let('entries', add(tables, entries)), sums.take);
    }
    return sums.get();
  };
  // Planes add up before bytes are split into rows, as many as there is room for.
  const most = Math.min(bits, adder.planes(chunk / QUAD, width / chunk));
  const sets = range(Math.ceil(bits / most)).map((set) => set * most);
  const held = sets.map(() => adder.zeros(s.lanes).map((zero) => b.var('held', zero)));
  const take = (to: readonly Expr[], sums: readonly Expr[], by: number) => {
    for (const [i, sum] of sums.entries()) b.set(to[i]!, add(to[i]!, shift('left', sum, by)));
  };
  b.for('chunk', 0, width, chunk, (offset) => {
    for (const [i, lowest] of sets.entries()) {
      const planes = range(Math.min(most, bits - lowest));
      if (adder.shifts) {
        for (const plane of planes) take(held[i]!, sumPlane(offset, lowest + plane), plane);
      } else {
        let sums: readonly Expr[] | undefined;
        for (const plane of planes.toReversed()) {
          const twice = sums?.map((sum) => add(sum, sum));
          const found = sumPlane(offset, lowest + plane);
          sums = twice === undefined ? found : found.map((x, j) => b.let('sum', add(twice[j]!, x)));
        }
        take(held[i]!, sums!, 0);
      }
    }
  });
  const halves = sets.flatMap((lowest, i) => {
    const times = (width / chunk) * (2 ** Math.min(most, bits - lowest) - 1);
    return adder.split(held[i]!, chunk / QUAD, times).map(({ even, odd, shift: by }) => {
      const wide = (half: Expr) => shift('left', cast(half, 'i32'), lowest + by);
      return { even: wide(even), odd: wide(odd) };
    });
  });
  const sumOf = (parts: readonly Expr[]) => parts.reduce((x, y) => add(x, y));
  const even = b.let('even', sumOf(halves.map((half) => half.even)));
  const odd = b.let('odd', sumOf(halves.map((half) => half.odd)));
  return inRowOrder(even, odd);
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
      const place = { rows: s.rows, tokens: 1, token, row };
      const total = b.var('total', float(0, s.rows));
      const totals = { get: () => total, set: (_: number, value: Expr) => b.set(total, value) };
      const product: Product = { b, p, shape, s, start, table };
      sumGroups(b, p, shape, place, totals, (column, width) => [[partDot(product, column, width)]]);
      storeResult(b, p, shape, token, row, total);
    };
    if (s.rows === TILE_ROWS) someRows(int(0));
    else b.for('inTile', 0, TILE_ROWS, s.rows, someRows);
  });
}
