import { range } from '../../common/math.ts';
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, addPairs, float, mul, slice, vector } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { forRowBlocks, forSteps, forTiles } from '../tiles.ts';
import { forPlaneCodes } from './bit-planes.ts';
import {
  accumulators,
  addInParts,
  addProducts,
  DOT2_COLUMNS,
  type Dots,
  type VectorSchedule,
  type Writer,
} from './dots.ts';
import { forFields, SPANS, splitPairs } from './fields.ts';
import { writeTileRow } from './packed.ts';
import {
  columnBytes,
  type GroupParams,
  type GroupShape,
  type Place,
  storeResult,
  TILE,
  tokenStride,
} from './shape.ts';
import { sumGroups } from './sums.ts';

interface Product extends Writer {
  /** Unpacked codes of the row block. */
  readonly codes: BufferRef;
  /** Sums of a register tile, [token][row]: touched once in a part, they leave the registers to the dots. */
  readonly totals: BufferRef;
}

/**
 * Unpacks the row block once, for all tokens, so that every register tile reads one stream. `codes` is
 * [rowBlock/rows][k/4][rows][4] u8, and for `madd` [rowBlock/rows][k/4][even, odd][rows][2] i16.
 */
function unpackBlock(product: Product, block: Expr): void {
  const { b, p, shape, s } = product;
  const { bits, k } = shape;
  if (shape.encoding === 'bit-planes') {
    forPlaneCodes(b, p.weight, shape, s.rowBlock, block, (...codes) => storeCodes(product, ...codes));
    return;
  }
  const { columns, tiles } = SPANS[bits]!;
  const tileRowBytes = rowStride(k) * columnBytes(bits);
  const blockStart = b.let('blockStart', mul(block, (s.rowBlock / TILE) * tileRowBytes));
  for (let tileRow = 0; tileRow < s.rowBlock / TILE; tileRow++) {
    const start = b.let('start', add(blockStart, tileRow * tileRowBytes));
    forSteps(b, 0, rowStride(k), columns, 1, (at) => {
      const from = b.let('from', add(start, mul(at, columnBytes(bits))));
      const loaded = range(tiles).map((tile) => b.let('tile', b.load(p.weight, add(from, 64 * tile), 64)));
      forFields(b, bits, loaded, false, (field) =>
        storeCodes(product, tileRow, at, field.column, field.codes),
      );
    });
  }
}

/** Stores codes of 16 rows, the tile row `tileRow` of the block, by 4 columns from `at` + `column` on. */
function storeCodes(
  { b, shape, s, codes }: Product,
  tileRow: number,
  at: Expr,
  column: number,
  bytes: Expr,
): void {
  const together = Math.min(s.rows, TILE);
  const parts = s.multiply === 'madd' ? splitPairs(b, bytes) : [bytes];
  const perRow = 4 / parts.length;
  for (const [i, unpacked] of parts.entries()) {
    for (let piece = 0; piece < TILE; piece += together) {
      const row = tileRow * TILE + piece;
      const inGroup = row % s.rows;
      const to = (row - inGroup) * rowStride(shape.k) + (column + perRow * i) * s.rows + perRow * inGroup;
      b.store(codes, add(mul(at, s.rows), to), slice(unpacked, perRow * piece, perRow * together));
    }
  }
}

/** Dots of unpacked codes over `width` columns; `group` is where the codes of the rows begin, `x` the activations. */
function partDots(product: Product, place: Place, group: Expr, x: Expr, column: Expr, width: number): Dots {
  const { b, shape, s, codes } = product;
  const { rows, tokens } = place;
  const halves = s.multiply === 'madd' ? 2 : 1;
  const lanes = (4 / halves) * rows;
  const addColumns = (from: Expr, count: number, dots: Dots) => {
    forSteps(b, 0, count, 4, count % (4 * s.unroll) === 0 ? s.unroll : 1, (offset) => {
      const at = b.let('at', add(from, offset));
      const start = b.let('start', add(group, mul(at, rows)));
      const first = b.let('first', add(x, at));
      const loaded = range(halves).map((half) =>
        b.let('codes', b.load(codes, add(start, half * lanes), lanes)),
      );
      addProducts(product, place, loaded, 2 ** shape.bits - 1, first, 0, (t, plane) => dots[t]![plane]!);
    });
    return dots;
  };
  const wide = vector('i32', rows);
  if (s.multiply !== 'dot2') return addColumns(column, width, accumulators(product, 'dots', tokens, wide));
  const some = (from: Expr, count: number) => {
    const dots = accumulators(product, 'dots', tokens, vector('i16', 2 * rows));
    return addColumns(from, count, dots).map((ofToken) => ofToken.map(addPairs));
  };
  const most = DOT2_COLUMNS[shape.bits]!;
  if (width <= most) return some(column, width);
  const sums = accumulators(product, 'sums', tokens, wide);
  addInParts(product, sums, column, width, most, some);
  return sums;
}

/** The row block by all tokens, through unpacked codes. */
function writeUnpacked(product: Product, block: Expr): void {
  const { b, p, shape, s, totals } = product;
  unpackBlock(product, block);
  const firstRow = b.let('firstRow', mul(block, s.rowBlock));
  forTiles(b, p.n, s.tokens, (token, size) => {
    const x = b.let('x', mul(token, tokenStride(shape)));
    b.for('inBlock', 0, s.rowBlock, s.rows, (inBlock) => {
      const row = b.let('row', add(firstRow, inBlock));
      const group = b.let('codesFrom', mul(inBlock, rowStride(shape.k)));
      const place = { rows: s.rows, tokens: size, token, row };
      const get = (t: number) => b.load(totals, t * s.rows, s.rows);
      const set = (t: number, value: Expr) => b.store(totals, t * s.rows, value);
      for (const t of range(size)) set(t, float(0, s.rows));
      sumGroups(b, p, shape, place, { get, set }, (column, width) =>
        partDots(product, place, group, x, column, width),
      );
      for (const t of range(size)) storeResult(b, p, shape, add(token, t), row, get(t));
    });
  });
}

/**
 * Matrix product: a row block is unpacked once to bytes, which stay in the cache while every tile of tokens goes
 * through it; for a few tokens it is used as it is. Both add in the same order, so that a token's result does not
 * depend on its companions.
 */
export function writeGemm(b: FunctionBuilder, p: GroupParams, shape: GroupShape, s: VectorSchedule): void {
  const { m, k } = shape;
  const codes = b.local('codes', s.multiply === 'madd' ? 'i16' : 'u8', s.rowBlock * rowStride(k));
  const totals = b.local('totals', 'f32', s.tokens * s.rows);
  forRowBlocks(
    b,
    p.n,
    rowStride(m),
    s,
    (block) => writeUnpacked({ b, p, shape, s, codes, totals }, block),
    (tileRow) => writeTileRow(b, p, shape, s, tileRow, s.fewTokens),
  );
}
