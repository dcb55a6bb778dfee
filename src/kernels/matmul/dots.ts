/** Dots of rows of a table with activations: what the output head and other products of floats are made of. */
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
  min,
  mul,
  reduce,
  shift,
  shuffle,
  sub,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { forGroups, keepFirst, LANES, rowStart } from '../lanes.ts';
import { forRows } from '../tiles.ts';

export type MatmulShape = {
  readonly m: number;
  readonly k: number;
  readonly elem: 'bf16' | 'f16' | 'f32';
};

export type MatmulSchedule = {
  /** 32-bit lanes of a vector: 4, 8 or 16. */
  readonly lanes: number;
  /** Vectors of partial sums in registers at a time; there are as many passes over a row as that takes. */
  readonly accumulators: number;
  /** Rows by tokens in registers at a time; a token by itself takes rows one by one. */
  readonly rows: number;
  readonly tokens: number;
  /** How far ahead the table is prefetched; 0: not at all. */
  readonly prefetchBytes: number;
};

/**
 * Partial sums of a dot. More than other reductions have, because rows are best read one after the other, as a
 * single stream, and the additions of one row must then overlap each other.
 */
export const PARTS = 32;

export interface Product {
  readonly b: FunctionBuilder;
  readonly shape: MatmulShape;
  readonly s: MatmulSchedule;
  readonly x: BufferRef;
  readonly table: BufferRef;
  /** The activations of tokens as the elements of the table want them, 0 in the padding. */
  readonly inputs: BufferRef;
}

/** What is done with the elements of a table. */
export interface Way {
  /** Vectors of partial sums that one load from the table serves. */
  readonly vectors: number;
  /** Fills `inputs` from element `at` on. */
  prepare(product: Product, token: Expr, at: number): void;
  /** For each of those vectors the weights of piece `piece` of a step that begins at element `at`. */
  weights(product: Product, at: Expr, piece: number): readonly Expr[];
  /** What those of vector `v` are multiplied by. */
  input(product: Product, at: Expr, piece: number, v: number): Expr;
}

/** Calls `body` for groups of activations of a token, 0 in the padding. */
function forActivations(
  { b, shape: { k }, x }: Product,
  token: Expr,
  body: (at: Expr, values: Expr) => void,
) {
  const row = rowStart(b, token, k);
  forGroups(b, k, (at, count) => body(at, keepFirst(b.load(x, add(row, at), LANES), count)));
  for (let at = Math.ceil(k / LANES) * LANES; at < rowStride(k); at += LANES) body(int(at), float(0, LANES));
}

/** f32 and f16. */
const PLAIN: Way = {
  vectors: 1,
  prepare(product, token, start) {
    forActivations(product, token, (at, values) => product.b.store(product.inputs, add(at, start), values));
  },
  weights: ({ b, s, table }, at, piece) => [cast(b.load(table, add(at, piece * s.lanes), s.lanes), 'f32')],
  input: ({ b, s, inputs }, at, piece) => b.load(inputs, add(at, piece * s.lanes), s.lanes),
};

/**
 * bf16, which is the upper half of an f32: a 32-bit lane holds two of them, each one instruction away from being
 * one. The lower ones are even columns, the upper ones odd. Of every 32 activations `inputs` has the 16 even ones
 * first: partial sum p < 16 belongs to column 2p, partial sum 16 + p to column 2p + 1.
 */
const PAIRS: Way = {
  vectors: 2,
  prepare(product, token, start) {
    const { b, inputs } = product;
    forActivations(product, token, (at, values) => {
      const group = b.let('group', values);
      const half = (odd: number) =>
        shuffle(
          group,
          range(LANES / 2).map((i) => 2 * i + odd),
        );
      // The second 16 activations of 32 come 8 places after the first.
      const to = b.let('to', add(sub(at, shift('right', and(at, LANES), 1)), start));
      b.store(inputs, to, half(0));
      b.store(inputs, add(to, LANES), half(1));
    });
  },
  weights({ b, s, table }, at, piece) {
    const stored = b.load(table, add(at, 2 * piece * s.lanes), 2 * s.lanes);
    const pair = b.let('pair', bitcast(stored, vector('u32', s.lanes)));
    return [shift('left', pair, 16), and(pair, 0xffff0000)].map((bits) =>
      bitcast(bits, vector('f32', s.lanes)),
    );
  },
  input: ({ b, s, inputs }, at, piece, v) => b.load(inputs, add(at, piece * s.lanes + v * LANES), s.lanes),
};

export const WAYS: Record<MatmulShape['elem'], Way> = { f32: PLAIN, f16: PLAIN, bf16: PAIRS };
const ELEM_BYTES = { f32: 4, f16: 2, bf16: 2 };

/** Vectors of partial sums, by the piece of a step and the vector of it: what a pass over the rows adds up. */
type Pass = readonly { readonly piece: number; readonly v: number }[];

/** As many sums of each of `dots` dots in a pass as there is room for: whole pieces, or single vectors. */
function passesOf(way: Way, s: MatmulSchedule, dots: number): readonly Pass[] {
  const pieces = range(PARTS / (s.lanes * way.vectors));
  const vectors = range(way.vectors);
  const together = Math.floor(s.accumulators / dots / way.vectors);
  if (together < 1) return vectors.flatMap((v) => pieces.map((piece) => [{ piece, v }]));
  const starts = pieces.filter((piece) => piece % together === 0);
  return starts.map((start) =>
    pieces.slice(start, start + together).flatMap((piece) => vectors.map((v) => ({ piece, v }))),
  );
}

/** Some rows of the table by some tokens, in some columns. */
interface Tile {
  readonly rows: number;
  readonly tokens: number;
  /** Where the first row begins in the table. */
  readonly start: Expr;
  readonly from: Expr | number;
  readonly to: Expr | number;
  /** How many elements ahead the table is prefetched, for each column. */
  readonly ahead?: ((at: Expr) => Expr) | undefined;
}

/** Adds up the products of a tile in `sums`, [row][token][vector of the pass]. */
function addProducts(product: Product, tile: Tile, pass: Pass, sums: readonly (readonly Expr[][])[]): void {
  const { b, shape, table } = product;
  const { rows, tokens, ahead } = tile;
  const way = WAYS[shape.elem];
  const stride = rowStride(shape.k);
  b.for('at', tile.from, tile.to, PARTS, (at) => {
    const from = b.let('weights', add(tile.start, at));
    if (ahead !== undefined) b.prefetch(table, ahead(at));
    let read: { readonly piece: number; readonly weights: readonly (readonly Expr[])[] } | undefined;
    pass.forEach(({ piece, v }, i) => {
      if (read?.piece !== piece) {
        const ofRow = (r: number) => way.weights(product, add(from, r * stride), piece);
        read = { piece, weights: range(rows).map(ofRow) };
      }
      const own = read.weights.map((ofRow) => (tokens > 1 ? b.let('weight', ofRow[v]!) : ofRow[v]!));
      for (const t of range(tokens)) {
        const loaded = way.input(product, add(at, t * stride), piece, v);
        const input = rows > 1 ? b.let('input', loaded) : loaded;
        own.forEach((weight, r) => {
          const sum = sums[r]![t]![i]!;
          b.set(sum, add(sum, mul(weight, input)));
        });
      }
    });
  });
}

/** The first partial sum of vector `v` of a piece. */
const partOf = ({ piece, v }: Pass[number], { lanes }: MatmulSchedule, { vectors }: Way) =>
  v * (PARTS / vectors) + piece * lanes;

/** The dot of a row of the table with the prepared activations of one token. */
export function writeDot(product: Product, row: Expr): Expr {
  const { b, shape, s } = product;
  const way = WAYS[shape.elem];
  const start = b.let('start', mul(row, rowStride(shape.k)));
  const parts: { readonly first: number; readonly sum: Expr }[] = [];
  passesOf(way, s, 1).forEach((pass, i) => {
    const sums = pass.map(() => b.var('sums', float(0, s.lanes)));
    const distance = s.prefetchBytes / ELEM_BYTES[shape.elem];
    const ahead = distance > 0 && i === 0 ? (at: Expr) => add(add(start, at), distance) : undefined;
    const tile = { rows: 1, tokens: 1, start, from: 0, to: rowStride(shape.k), ahead };
    addProducts(product, tile, pass, [[sums]]);
    parts.push(...pass.map((unit, j) => ({ first: partOf(unit, s, way), sum: sums[j]! })));
  });
  parts.sort((a, b) => a.first - b.first);
  return reduce('add', concat(parts.map(({ sum }) => sum)));
}

/** Columns of activations that stay in the first cache while rows pass by. */
const INPUT_BYTES = 16 << 10;

/**
 * Rows first .. end of the table by `tokens` prepared tokens, several of each at a time; `done` gets every dot.
 * A tile goes over its columns once for every few of its partial sums, so these columns are few, and between them
 * the sums wait in `partial`, [row][token][PARTS].
 */
export function writeDots(
  product: Product,
  rows: { readonly first: Expr; readonly end: Expr },
  tokens: number,
  partial: BufferRef,
  done: (row: Expr, token: number, dot: Expr) => void,
): void {
  const { b, shape, s } = product;
  const way = WAYS[shape.elem];
  const stride = rowStride(shape.k);
  const { first, end } = rows;
  const perRow = tokens * PARTS;
  const sumsOf = (row: Expr) => b.let('held', mul(sub(row, first), perRow));
  b.for('row', first, end, 1, (row) => {
    const at = sumsOf(row);
    for (const t of range(tokens)) b.store(partial, add(at, t * PARTS), float(0, PARTS));
  });
  const columns = Math.floor(INPUT_BYTES / (4 * tokens) / PARTS) * PARTS;
  b.for('from', 0, stride, columns, (from) => {
    const to = b.let('to', min(add(from, columns), int(stride)));
    forRows(b, first, end, s.rows, (row, count) => {
      const start = b.let('start', mul(row, stride));
      const at = sumsOf(row);
      passesOf(way, s, count * tokens).forEach((pass, i) => {
        const place = (r: number, t: number, unit: Pass[number]) =>
          add(at, r * perRow + t * PARTS + partOf(unit, s, way));
        const sums = range(count).map((r) =>
          range(tokens).map((t) =>
            pass.map((unit) => b.var('sums', b.load(partial, place(r, t, unit), s.lanes))),
          ),
        );
        // Of the next rows, one line for each row and as many columns as a line has.
        const next = add(start, count * stride);
        const ahead = i < count ? (column: Expr) => add(next, add(column, i * stride)) : undefined;
        addProducts(product, { rows: count, tokens, start, from, to, ahead }, pass, sums);
        sums.forEach((ofRow, r) => {
          ofRow.forEach((ofToken, t) => {
            pass.forEach((unit, j) => {
              b.store(partial, place(r, t, unit), ofToken[j]!);
            });
          });
        });
      });
    });
  });
  b.for('row', first, end, 1, (row) => {
    const at = sumsOf(row);
    for (const t of range(tokens)) done(row, t, reduce('add', b.load(partial, add(at, t * PARTS), PARTS)));
  });
}
