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
  vector,
} from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { rowStride } from './kernel.ts';
import {
  broadcastFour,
  type LowbitParams,
  type LowbitSchedule,
  type LowbitShape,
  MAX_CODE,
  shiftBytes,
  storeRows,
  TILE,
  TILE_BYTES,
  tileRowBytes,
  widenPairs,
} from './lowbit.ts';
import { forSteps, forTiles } from './tiles.ts';

type Multiply = 'dot4' | 'dot2' | 'madd';

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
  /** First row, counted from the row block. */
  readonly inBlock: Expr;
  /** Index of each token's first activation. */
  readonly tokens: readonly Expr[];
}

/**
 * Unpacks the row block once, for all tokens. `codes` is [k/4][rowBlock][4] u8, and for `madd`
 * [k/4][even, odd][rowBlock][2] i16, so that what a step of 4 columns needs lies together.
 */
function unpackBlock({ b, p, k, s, codes }: Product, blockStart: Expr): void {
  const blockBytes = s.rowBlock * 4;
  for (let tileRow = 0; tileRow < s.rowBlock / TILE; tileRow++) {
    const start = b.let('start', add(blockStart, tileRow * tileRowBytes(k)));
    forSteps(b, 0, rowStride(k), TILE, 1, (at) => {
      const tile = b.let('tile', b.load(p.weight, add(start, mul(at, TILE_BYTES / TILE)), TILE_BYTES));
      const to = b.let('to', mul(at, blockBytes / 4));
      for (let field = 0; field < 4; field++) {
        if (s.multiply === 'madd') {
          const words = bitcast(tile, vector('u16', TILE_BYTES / 2));
          for (const odd of [0, 1]) {
            const pairs = and(shift('right', words, 2 * field + 8 * odd), 3);
            const offset = (field * 2 + odd) * (blockBytes / 2) + tileRow * TILE * 2;
            b.store(codes, add(to, offset), bitcast(pairs, vector('i16', TILE_BYTES / 2)));
          }
        } else {
          const offset = field * blockBytes + tileRow * TILE_BYTES;
          b.store(codes, add(to, offset), and(shiftBytes(tile, 2 * field), 3));
        }
      }
    });
  }
}

function dots(b: FunctionBuilder, count: number, kind: 'i16' | 'i32', lanes: number): readonly Expr[] {
  return Array.from({ length: count }, () => b.var('dots', constant(vector(kind, lanes), 0)));
}

/** Codes of 4 columns from column `at` on, `rows` rows of them. */
function loadCodes({ b, codes, s }: Product, { inBlock }: RegisterTile, at: Expr): Expr {
  return b.let('codes', b.load(codes, add(mul(at, s.rowBlock), mul(inBlock, 4)), 4 * s.rows));
}

function dot4Totals(product: Product, tile: RegisterTile): readonly Expr[] {
  const { b, p, k, s } = product;
  const totals = dots(b, tile.tokens.length, 'i32', s.rows);
  forSteps(b, 0, rowStride(k), 4, s.unroll, (at) => {
    const weights = loadCodes(product, tile, at);
    tile.tokens.forEach((x, t) => {
      b.set(totals[t]!, dot4(totals[t]!, weights, broadcastFour(b, p, add(x, at), s.rows), MAX_CODE));
    });
  });
  return totals;
}

/** Columns until an i16 accumulator is full: each 4 columns add up to 2 * 2 * 128 = 512 to it. */
const DOT2_COLUMNS = 256;

function dot2Totals(product: Product, tile: RegisterTile, sums: BufferRef): readonly Expr[] {
  const { b, p, k, s } = product;
  const stride = rowStride(k);
  const { rows } = s;
  // The wide sums are touched once in 256 columns: in memory they leave the registers to the narrow ones.
  for (let t = 0; t < tile.tokens.length; t++) b.store(sums, t * rows, constant(vector('i32', rows), 0));
  b.for('block', 0, stride, DOT2_COLUMNS, (block) => {
    const narrow = dots(b, tile.tokens.length, 'i16', 2 * rows);
    const end = add(block, DOT2_COLUMNS);
    const to = stride % DOT2_COLUMNS === 0 ? end : b.let('end', min(end, int(stride)));
    forSteps(b, block, to, 4, s.unroll, (at) => {
      const weights = loadCodes(product, tile, at);
      tile.tokens.forEach((x, t) => {
        const four = broadcastFour(b, p, add(x, at), rows);
        b.set(narrow[t]!, add(narrow[t]!, dot2(weights, four, MAX_CODE)));
      });
    });
    narrow.forEach((dot, t) => {
      b.store(sums, t * rows, add(b.load(sums, t * rows, rows), addPairs(dot)));
    });
  });
  return tile.tokens.map((_, t) => b.load(sums, t * rows, rows));
}

function maddTotals(product: Product, tile: RegisterTile): readonly Expr[] {
  const { b, p, k, s, codes } = product;
  const totals = dots(b, tile.tokens.length, 'i32', s.rows);
  forSteps(b, 0, rowStride(k), 4, s.unroll, (at) => {
    const from = b.let('from', add(mul(at, s.rowBlock), mul(tile.inBlock, 2)));
    const evenCodes = b.let('evenCodes', b.load(codes, from, 2 * s.rows));
    const oddCodes = b.let('oddCodes', b.load(codes, add(from, 2 * s.rowBlock), 2 * s.rows));
    tile.tokens.forEach((x, t) => {
      const [even, odd] = widenPairs(b, broadcastFour(b, p, add(x, at), s.rows));
      b.set(totals[t]!, add(totals[t]!, madd(evenCodes, even)));
      b.set(totals[t]!, add(totals[t]!, madd(oddCodes, odd)));
    });
  });
  return totals;
}

/**
 * Matrix product: a row block is unpacked once to bytes, which stay in the cache while every tile of tokens
 * goes through it. Sums are exact, so that a token's result does not depend on its companions.
 */
export function writeGemm(
  b: FunctionBuilder,
  p: LowbitParams,
  { m, k }: LowbitShape,
  s: LowbitSchedule & { readonly multiply: Multiply },
): void {
  const blockCodes = s.rowBlock * rowStride(k);
  const codes = b.local('codes', s.multiply === 'madd' ? 'i16' : 'u8', blockCodes);
  const product: Product = { b, p, k, s, codes };
  const sums = s.multiply === 'dot2' ? b.local('sums', 'i32', s.tokens * s.rows) : undefined;
  b.thread('block', rowStride(m) / s.rowBlock, (block) => {
    unpackBlock(product, b.let('blockStart', mul(block, blockCodes / 4)));
    const firstRow = b.let('firstRow', mul(block, s.rowBlock));
    forTiles(b, p.n, s.tokens, (first, size) => {
      const tokens = Array.from({ length: size }, (_, t) => b.let('x', mul(add(first, t), rowStride(k))));
      b.for('inBlock', 0, s.rowBlock, s.rows, (inBlock) => {
        const tile = { inBlock, tokens };
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
  });
}
