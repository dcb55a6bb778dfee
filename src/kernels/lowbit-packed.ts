import type { FunctionBuilder } from '../loops/builder.ts';
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
  type VectorSchedule,
  widenPairs,
} from './lowbit.ts';
import { forSteps, forTiles } from './tiles.ts';

/** Some rows of a row of tiles by some tokens. */
interface Product {
  readonly b: FunctionBuilder;
  readonly p: LowbitParams;
  readonly k: number;
  readonly s: LowbitSchedule;
  /** Lanes of the accumulators. */
  readonly rows: number;
  /** Byte of the weights where the rows start. */
  readonly start: Expr;
  /** Index of the first token's first activation; the others follow at the stride of rows. */
  readonly x: Expr;
  readonly tokens: number;
}

/** Loads 16 columns of the rows and prefetches later ones. */
function loadTile({ b, p, s, rows, start }: Product, at: Expr): Expr {
  const from = b.let('from', add(start, mul(at, TILE_BYTES / TILE)));
  if (s.prefetchBytes > 0) b.prefetch(p.weight, add(from, s.prefetchBytes));
  return b.let('tile', b.load(p.weight, from, 4 * rows));
}

/** For every token, 4 activations in front of each row. */
function forTokens(
  { b, p, k, x, rows, tokens }: Product,
  column: Expr,
  body: (four: Expr, t: number) => void,
) {
  for (let t = 0; t < tokens; t++) {
    body(broadcastFour(b, p, add(add(x, column), t * rowStride(k)), rows), t);
  }
}

/** [token][accumulator] */
function accumulators(
  { b, tokens }: Product,
  name: string,
  count: number,
  kind: 'i16' | 'i32',
  lanes: number,
) {
  const zero = constant(vector(kind, lanes), 0);
  return Array.from({ length: tokens }, () => Array.from({ length: count }, () => b.var(name, zero)));
}

/**
 * Each field is masked in place, so that its codes are 4^field times too large, and has an accumulator of its
 * own that is shifted back at the end: that is exact, and saves a shift per field and tile.
 */
function dot4Totals(product: Product): readonly Expr[] {
  const { b, s, rows, k } = product;
  const dots = accumulators(product, 'dots', 4, 'i32', rows);
  forSteps(b, 0, rowStride(k), TILE, s.unroll, (at) => {
    const tile = loadTile(product, at);
    for (let field = 0; field < 4; field++) {
      const shifted = field === 3 && s.shiftTop;
      const inPlace = shifted ? 0 : 2 * field;
      const codes = b.let('codes', and(shifted ? shiftBytes(tile, 6) : tile, 3 << inPlace));
      forTokens(product, add(at, 4 * field), (four, t) => {
        b.set(dots[t]![field]!, dot4(dots[t]![field]!, codes, four, MAX_CODE << inPlace));
      });
    }
  });
  return dots.map((sums) =>
    sums
      .map((sum, field) => shift('right', sum, field === 3 && s.shiftTop ? 0 : 2 * field))
      .reduce((total, sum) => add(total, sum)),
  );
}

/**
 * Columns until an i16 accumulator is full: a tile adds two fields of codes up to 8 to it, pair by pair, which
 * is up to 2 * 2 * 8 * 128 = 4096; eight times that is exactly -32768.
 */
const DOT2_COLUMNS = 128;

/** Adds a step's products of one field, `field` 0 or 1 of a tile that may be shifted, to one accumulator per token. */
type AddField = (tile: Expr, column: Expr, field: number, dots: readonly (readonly Expr[])[]) => void;

/**
 * Two accumulators: fields 0 and 2 with codes as they are, fields 1 and 3 with codes times 4. Fields 2 and 3 are
 * fields 0 and 1 of the tile shifted right by 4.
 */
function pairTotals(product: Product, addField: AddField): readonly Expr[] {
  const { b, k, s, rows } = product;
  const stride = rowStride(k);
  const step = (dots: readonly (readonly Expr[])[]) => (at: Expr) => {
    const tile = loadTile(product, at);
    for (const half of [0, 1]) {
      const nibbles = half === 0 ? tile : b.let('high', shiftBytes(tile, 4));
      for (const field of [0, 1]) addField(nibbles, add(at, 8 * half + 4 * field), field, dots);
    }
  };
  const totals = accumulators(product, 'totals', 2, 'i32', rows);
  if (s.multiply === 'madd') {
    forSteps(b, 0, stride, TILE, s.unroll, step(totals));
  } else {
    b.for('block', 0, stride, DOT2_COLUMNS, (block) => {
      const dots = accumulators(product, 'dots', 2, 'i16', 2 * rows);
      const end = add(block, DOT2_COLUMNS);
      const to = stride % DOT2_COLUMNS === 0 ? end : b.let('end', min(end, int(stride)));
      forSteps(b, block, to, TILE, s.unroll, step(dots));
      dots.forEach((ofToken, t) => {
        ofToken.forEach((dot, i) => {
          b.set(totals[t]![i]!, add(totals[t]![i]!, addPairs(dot)));
        });
      });
    });
  }
  return totals.map(([low, high]) => add(low!, shift('right', high!, 2)));
}

function dot2Totals(product: Product): readonly Expr[] {
  const { b } = product;
  return pairTotals(product, (tile, column, field, dots) => {
    const codes = b.let('codes', and(tile, 3 << (2 * field)));
    forTokens(product, column, (four, t) => {
      const dot = dots[t]![field]!;
      b.set(dot, add(dot, dot2(codes, four, MAX_CODE << (2 * field))));
    });
  });
}

function maddTotals(product: Product): readonly Expr[] {
  const { b, rows } = product;
  return pairTotals(product, (tile, column, field, dots) => {
    const words = bitcast(tile, vector('u16', 2 * rows));
    const [even, odd] = [0, 8].map((by) => {
      const codes = and(shift('right', words, by), 3 << (2 * field));
      return b.let('codes', bitcast(codes, vector('i16', 2 * rows)));
    });
    forTokens(product, column, (four, t) => {
      const dot = dots[t]![field]!;
      const [evenFour, oddFour] = widenPairs(b, four);
      b.set(dot, add(dot, madd(even!, evenFour)));
      b.set(dot, add(dot, madd(odd!, oddFour)));
    });
  });
}

const TOTALS = { dot4: dot4Totals, dot2: dot2Totals, madd: maddTotals };

/**
 * One row of tiles by all tokens, `tokens` of them at a time, on packed codes: rows are lanes, so that
 * activations are broadcast and there are no sums across lanes.
 */
export function writeTileRow(
  b: FunctionBuilder,
  p: LowbitParams,
  { m, k }: LowbitShape,
  s: VectorSchedule,
  tileRow: Expr,
  tokens: number,
): void {
  const rows = Math.min(s.rows, TILE);
  const firstByte = b.let('firstByte', mul(tileRow, tileRowBytes(k)));
  const firstRow = b.let('firstRow', mul(tileRow, TILE));
  forTiles(b, p.n, tokens, (token, size) => {
    const x = b.let('x', mul(token, rowStride(k)));
    const someRows = (inTile: Expr) => {
      const start = b.let('start', add(firstByte, mul(inTile, 4)));
      const totals = TOTALS[s.multiply]({ b, p, k, s, rows, start, x, tokens: size });
      const row = b.let('row', add(firstRow, inTile));
      totals.forEach((total, t) => {
        storeRows(b, p, m, add(token, t), row, total);
      });
    };
    if (rows === TILE) someRows(int(0));
    else b.for('inTile', 0, TILE, rows, someRows);
  });
}

/** Matrix-vector product; with more tokens, one after the other. */
export function writeGemv(b: FunctionBuilder, p: LowbitParams, shape: LowbitShape, s: VectorSchedule): void {
  b.thread('tileRow', rowStride(shape.m) / TILE, (tileRow) => writeTileRow(b, p, shape, s, tileRow, 1));
}
