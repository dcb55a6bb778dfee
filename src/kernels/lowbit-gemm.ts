import type { BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  addPairs,
  and,
  bitcast,
  constant,
  dot2,
  dot4,
  int,
  madd,
  min,
  mul,
  shift,
  slice,
  vector,
} from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { rowStride } from './kernel.ts';
import {
  broadcastFour,
  fieldTable,
  forRowTiles,
  type LowbitParams,
  type LowbitSchedule,
  type LowbitShape,
  MAX_CODE,
  readTile,
  storeRows,
  TILE,
  TILE_BYTES,
  type TileFormat,
  tileFormat,
  tileRowBytes,
  type VectorSchedule,
  walkRow,
  widenPairs,
} from './lowbit.ts';
import { writeTileRow } from './lowbit-packed.ts';
import { forRowBlocks, forSteps, forTiles } from './tiles.ts';

interface Product {
  readonly b: FunctionBuilder;
  readonly p: LowbitParams;
  readonly k: number;
  readonly s: LowbitSchedule;
  /** Unpacked codes of the row block. */
  readonly codes: BufferRef;
}

/** Some rows of the row block by some tokens. */
interface RegisterTile {
  /** Where the codes of the rows begin. */
  readonly group: Expr;
  /** Index of the first token's first activation; the others follow at the stride of rows. */
  readonly x: Expr;
  readonly tokens: number;
}

/** Codes of four columns from `column` on, 2 bits from bit `shiftBy` of each byte on, to where they go in `codes`. */
function storeCodes(
  { b, k, s, codes }: Product,
  bytes: Expr,
  shiftBy: number,
  column: Expr,
  tileRow: number,
): void {
  const { rows } = s;
  const together = Math.min(rows, TILE);
  const pairs = s.multiply === 'madd' ? 2 : 1;
  for (let pair = 0; pair < pairs; pair++) {
    const words = shift('right', bitcast(bytes, vector('u16', TILE_BYTES / 2)), shiftBy + 8 * pair);
    const unpacked =
      pairs === 2
        ? b.let('pairs', bitcast(and(words, 3), vector('i16', TILE_BYTES / 2)))
        : b.let('bytes', and(bitcast(words, bytes.type), 3));
    const perRow = 4 / pairs;
    for (let piece = 0; piece < TILE; piece += together) {
      const row = tileRow * TILE + piece;
      const inGroup = row % rows;
      const start = (row - inGroup) * rowStride(k) + perRow * pair * rows + perRow * inGroup;
      b.store(codes, add(mul(column, rows), start), slice(unpacked, perRow * piece, perRow * together));
    }
  }
}

/**
 * Unpacks the row block once, for all tokens, so that every register tile reads one stream. `codes` is
 * [rowBlock/rows][k/4][rows][4] u8, and for `madd` [rowBlock/rows][k/4][even, odd][rows][2] i16.
 */
function unpackBlock(product: Product, format: TileFormat, blockStart: Expr): void {
  const { b, p, k, s } = product;
  const table = fieldTable(b, format);
  const walk = walkRow(k, format);
  for (let tileRow = 0; tileRow < s.rowBlock / TILE; tileRow++) {
    const start = b.let('start', add(blockStart, tileRow * tileRowBytes(k, format)));
    forRowTiles(b, walk, 1, ({ column, byte, quads }) => {
      const tile = b.let('tile', b.load(p.weight, add(start, byte), TILE_BYTES));
      const { fields, lead } = readTile(b, tile, table);
      const before = lead === undefined ? 0 : 1;
      if (lead !== undefined) storeCodes(product, lead, 6, column, tileRow);
      for (let field = 0; field < quads - before; field++) {
        storeCodes(product, fields, 2 * field, add(column, 4 * (before + field)), tileRow);
      }
    });
  }
}

function dots(b: FunctionBuilder, count: number, kind: 'i16' | 'i32', lanes: number): readonly Expr[] {
  return Array.from({ length: count }, () => b.var('dots', constant(vector(kind, lanes), 0)));
}

/** For every token, 4 activations from column `at` on in front of each row: constant distances from one address. */
function forTokens(
  { b, p, k, s }: Product,
  { x, tokens }: RegisterTile,
  at: Expr,
  body: (four: Expr, token: number) => void,
): void {
  const first = b.let('first', add(x, at));
  for (let t = 0; t < tokens; t++) body(broadcastFour(b, p, add(first, t * rowStride(k)), s.rows), t);
}

/** Codes of 4 columns from column `at` on, `rows` rows of them. */
function loadCodes({ b, codes, s }: Product, { group }: RegisterTile, at: Expr): Expr {
  return b.let('codes', b.load(codes, add(group, mul(at, s.rows)), 4 * s.rows));
}

function dot4Totals(product: Product, tile: RegisterTile): readonly Expr[] {
  const { b, k, s } = product;
  const totals = dots(b, tile.tokens, 'i32', s.rows);
  forSteps(b, 0, rowStride(k), 4, s.unroll, (at) => {
    const weights = loadCodes(product, tile, at);
    forTokens(product, tile, at, (four, t) => {
      b.set(totals[t]!, dot4(totals[t]!, weights, four, MAX_CODE));
    });
  });
  return totals;
}

/** Columns until an i16 accumulator is full: each 4 columns add up to 2 * 2 * 128 = 512 to it. */
const DOT2_COLUMNS = 256;

function dot2Totals(product: Product, tile: RegisterTile, sums: BufferRef): readonly Expr[] {
  const { b, k, s } = product;
  const stride = rowStride(k);
  const { rows } = s;
  // The wide sums are touched once in 256 columns: in memory they leave the registers to the narrow ones.
  for (let t = 0; t < tile.tokens; t++) b.store(sums, t * rows, constant(vector('i32', rows), 0));
  b.for('block', 0, stride, DOT2_COLUMNS, (block) => {
    const narrow = dots(b, tile.tokens, 'i16', 2 * rows);
    const end = add(block, DOT2_COLUMNS);
    const to = stride % DOT2_COLUMNS === 0 ? end : b.let('end', min(end, int(stride)));
    forSteps(b, block, to, 4, s.unroll, (at) => {
      const weights = loadCodes(product, tile, at);
      forTokens(product, tile, at, (four, t) => {
        b.set(narrow[t]!, add(narrow[t]!, dot2(weights, four, MAX_CODE)));
      });
    });
    narrow.forEach((dot, t) => {
      b.store(sums, t * rows, add(b.load(sums, t * rows, rows), addPairs(dot)));
    });
  });
  return Array.from({ length: tile.tokens }, (_, t) => b.load(sums, t * rows, rows));
}

function maddTotals(product: Product, tile: RegisterTile): readonly Expr[] {
  const { b, k, s, codes } = product;
  const totals = dots(b, tile.tokens, 'i32', s.rows);
  forSteps(b, 0, rowStride(k), 4, s.unroll, (at) => {
    const from = b.let('from', add(tile.group, mul(at, s.rows)));
    const evenCodes = b.let('evenCodes', b.load(codes, from, 2 * s.rows));
    const oddCodes = b.let('oddCodes', b.load(codes, add(from, 2 * s.rows), 2 * s.rows));
    forTokens(product, tile, at, (four, t) => {
      const [even, odd] = widenPairs(b, four);
      b.set(totals[t]!, add(totals[t]!, madd(evenCodes, even)));
      b.set(totals[t]!, add(totals[t]!, madd(oddCodes, odd)));
    });
  });
  return totals;
}

/** The row block by all tokens, through unpacked codes. */
function writeUnpacked(
  product: Product,
  { m, encoding }: LowbitShape,
  block: Expr,
  sums: BufferRef | undefined,
): void {
  const { b, p, k, s } = product;
  const format = tileFormat(encoding);
  const blockBytes = (s.rowBlock / TILE) * tileRowBytes(k, format);
  unpackBlock(product, format, b.let('blockStart', mul(block, blockBytes)));
  const firstRow = b.let('firstRow', mul(block, s.rowBlock));
  forTiles(b, p.n, s.tokens, (first, size) => {
    const x = b.let('x', mul(first, rowStride(k)));
    b.for('inBlock', 0, s.rowBlock, s.rows, (inBlock) => {
      const group = b.let('group', mul(inBlock, rowStride(k)));
      const tile = { group, x, tokens: size };
      const totals =
        sums !== undefined
          ? dot2Totals(product, tile, sums)
          : s.multiply === 'dot4'
            ? dot4Totals(product, tile)
            : maddTotals(product, tile);
      const row = b.let('row', add(firstRow, inBlock));
      totals.forEach((total, t) => {
        storeRows(b, p, m, add(first, t), row, total);
      });
    });
  });
}

/**
 * Matrix product: a row block is unpacked once to bytes, which stay in the cache while every tile of tokens
 * goes through it; for a few tokens it is used as it is. Sums are exact, so that a token's result does not depend
 * on its companions.
 */
export function writeGemm(b: FunctionBuilder, p: LowbitParams, shape: LowbitShape, s: VectorSchedule): void {
  const { m, k } = shape;
  const codes = b.local('codes', s.multiply === 'madd' ? 'i16' : 'u8', s.rowBlock * rowStride(k));
  const sums = s.multiply === 'dot2' ? b.local('sums', 'i32', s.tokens * s.rows) : undefined;
  forRowBlocks(
    b,
    p.n,
    rowStride(m),
    s,
    (block) => writeUnpacked({ b, p, k, s, codes }, shape, block, sums),
    (tileRow) => writeTileRow(b, p, shape, s, tileRow, s.fewTokens),
  );
}
