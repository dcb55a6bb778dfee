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
import { LINE_COLUMNS, lineOfColumn, PLANE_BYTES, SPAN, TILE_ROWS, tileBytes } from '../group/bit-planes.ts';
import { joinPlanes } from '../group/packed.ts';
import { type GroupParams, laneOf, planesOf, storeResult, sumGroups } from '../group/shape.ts';
import { rowStride } from '../kernel.ts';
import type { LutSchedule, LutShape } from './shape.ts';
import { BASE_BITS, BYTE_BIAS, ENTRIES, EXACT_BIAS, QUAD, tableBytes } from './tables.ts';

/** Tables whose lookups are added in bytes: those of a span. */
const QUADS = SPAN / QUAD;

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

/** Sums of the even bytes, and of the odd ones. */
function splitWords({ all, odd }: Words): readonly Expr[] {
  return [sub(all, shift('left', odd, 8)), odd];
}

/** Rows in order, of words of the even bytes and of the odd ones: see `bit-planes`. */
function inRowOrder(even: Expr, odd: Expr): Expr {
  const units = range(even.type.lanes / 8);
  return concat(units.flatMap((u) => [slice(even, 8 * u, 8), slice(odd, 8 * u, 8)]));
}

/** Looks up a span from `from` on, in all the tables of their columns; gives `body` the table's number and bytes. */
function forLookups(
  { b, p, shape, s, table }: Product,
  from: Expr,
  column: Expr,
  tablesOffset: number,
  body: (kind: number, found: Expr) => void,
): void {
  const perQuad = shape.tables === 'exact' ? 2 : 1;
  const first = b.let('tables', add(table, add(mul(column, (perQuad * ENTRIES) / QUAD), tablesOffset)));
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
        const entries = bitcast(b.load(p.tables, add(first, offset), ENTRIES), vector('u8', ENTRIES));
        body(kind, b.let('found', lookup16(entries, index)));
      }
    }
  }
}

/**
 * Adds up bytes one by one; or, of `fast` tables, takes averages of neighbours, then of those, ...: a mean, rounded up
 * a little at every level. What is known at any time is in few registers.
 */
class ByteSums {
  readonly #b: FunctionBuilder;
  readonly #averages: boolean;
  /** Of bytes taken together, the latest last, and how many. */
  readonly #pending: { readonly bytes: Expr; readonly count: number }[] = [];

  constructor(b: FunctionBuilder, averages: boolean) {
    this.#b = b;
    this.#averages = averages;
  }

  take(bytes: Expr): void {
    let [sum, count] = [bytes, 1];
    const last = () => this.#pending.at(-1);
    while (this.#averages ? last()?.count === count : last() !== undefined) {
      const other = this.#pending.pop()!;
      const joined = this.#averages ? binary('averageRound', other.bytes, sum) : add(other.bytes, sum);
      sum = this.#b.let('sum', joined);
      count += other.count;
    }
    this.#pending.push({ bytes: sum, count });
  }

  /** The sum, or the mean of a power of two. */
  get(): Expr {
    return this.#pending[0]!.bytes;
  }
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
  const entries = tables === 'fast' ? width / SPAN : width / QUAD;
  const largest = (exact ? 2 ** BASE_BITS - 1 : 255) * entries;
  // Planes add up in words, as many as these are wide enough for.
  const most = Math.min(bits, Math.floor(Math.log2(65535 / largest + 1)));
  const sets = range(Math.ceil(bits / most)).map((set) => ({
    lowest: set * most,
    words: range(kinds).map(
      (): Words => ({
        all: b.var('all', constant(type, 0)),
        odd: b.var('odd', constant(type, 0)),
      }),
    ),
  }));
  b.for('span', 0, width, SPAN, (offset) => {
    const at = b.let('at', add(column, offset));
    const line = b.let('line', add(start, lineOfColumn(at, bits)));
    for (let plane = 0; plane < bits; plane++) {
      const { lowest, words } = sets[Math.floor(plane / most)]!;
      const addBytes = (kind: number, bytes: Expr) => {
        const { all, odd } = words[kind]!;
        const sums = b.let('sums', bitcast(bytes, type));
        b.set(all, add(all, shift('left', sums, plane - lowest)));
        b.set(odd, add(odd, shift('left', shift('right', sums, 8), plane - lowest)));
      };
      const bytes = range(kinds).map(() => new ByteSums(b, tables === 'fast'));
      const take = tables === 'int8' ? addBytes : (kind: number, found: Expr) => bytes[kind]!.take(found);
      forLookups(product, add(line, plane * PLANE_BYTES), at, tablesOffset, take);
      if (tables !== 'int8') for (const [kind, sums] of bytes.entries()) addBytes(kind, sums.get());
    }
  });
  const [even, odd] = [0, 1].map((parity) =>
    sets
      .flatMap(({ lowest, words }) =>
        words.map((sums, kind) =>
          shift('left', cast(splitWords(sums)[parity]!, 'i32'), lowest + kind * BASE_BITS),
        ),
      )
      .reduce((x, y) => add(x, y)),
  );
  const order = inRowOrder(b.let('even', even!), b.let('odd', odd!));
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
