import { range } from '../../common/math.ts';
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import {
  add,
  addPairs,
  compare,
  constant,
  dot2,
  dot4,
  float,
  int,
  madd,
  mul,
  repeat,
  slice,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { widenPairs } from '../lowbit.ts';
import { forSteps, forTiles } from '../tiles.ts';
import { forPlaneCodes } from './bit-planes.ts';
import { forFields, SPANS, splitPairs } from './fields.ts';
import { DOT2_COLUMNS, type VectorSchedule, writeTileRow } from './packed.ts';
import {
  columnBytes,
  type GroupParams,
  type GroupShape,
  type Place,
  planesOf,
  storeResult,
  TILE,
  tokenStride,
} from './shape.ts';
import { sumGroups } from './sums.ts';

interface Product {
  readonly b: FunctionBuilder;
  readonly p: GroupParams;
  readonly shape: GroupShape;
  readonly s: VectorSchedule;
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
function partDots(
  { b, p, shape, s, codes }: Product,
  { rows, tokens }: Place,
  group: Expr,
  x: Expr,
  column: Expr,
  width: number,
): readonly (readonly Expr[])[] {
  const planes = planesOf(shape);
  const largest = 2 ** shape.bits - 1;
  const accumulators = (name: string, type: Expr['type']) =>
    range(tokens).map(() => range(planes).map(() => b.var(name, constant(type, 0))));
  const addColumns = (from: Expr, count: number, dots: readonly (readonly Expr[])[]) => {
    forSteps(b, 0, count, 4, count % (4 * s.unroll) === 0 ? s.unroll : 1, (offset) => {
      const at = b.let('at', add(from, offset));
      const start = b.let('start', add(group, mul(at, rows)));
      const first = b.let('first', add(x, at));
      const halves = s.multiply === 'madd' ? 2 : 1;
      const weights = range(halves).map((half) => {
        const lanes = (4 / halves) * rows;
        return b.let('codes', b.load(codes, add(start, half * lanes), lanes));
      });
      for (const t of range(tokens)) {
        for (const plane of range(planes)) {
          const q = add(first, t * tokenStride(shape) + plane * rowStride(shape.k));
          const four = b.let('four', repeat(b.load(p.q, q, 4), rows));
          const dot = dots[t]![plane]!;
          if (s.multiply === 'dot4') b.set(dot, dot4(dot, weights[0]!, four, largest));
          else if (s.multiply === 'dot2') b.set(dot, add(dot, dot2(weights[0]!, four, largest)));
          else
            for (const [i, half] of widenPairs(b, four).entries())
              b.set(dot, add(dot, madd(weights[i]!, half)));
        }
      }
    });
  };
  const wide = vector('i32', rows);
  if (s.multiply !== 'dot2') {
    const dots = accumulators('dots', wide);
    addColumns(column, width, dots);
    return dots;
  }
  const some = (from: Expr, count: number) => {
    const dots = accumulators('dots', vector('i16', 2 * rows));
    addColumns(from, count, dots);
    return dots.map((ofToken) => ofToken.map(addPairs));
  };
  const most = DOT2_COLUMNS[shape.bits]!;
  if (width <= most) return some(column, width);
  const sums = accumulators('sums', wide);
  const addSome = (from: Expr, count: number) => {
    for (const [t, ofToken] of some(from, count).entries()) {
      for (const [i, sum] of ofToken.entries()) b.set(sums[t]![i]!, add(sums[t]![i]!, sum));
    }
  };
  const full = Math.floor(width / most) * most;
  b.for('block', 0, full, most, (offset) => addSome(b.let('from', add(column, offset)), most));
  if (full < width) addSome(b.let('from', add(column, full)), width - full);
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
  b.thread('block', rowStride(m) / s.rowBlock, (block) => {
    const unpacked = () => writeUnpacked({ b, p, shape, s, codes, totals }, block);
    const packed = () => {
      const first = b.let('first', mul(block, s.rowBlock / TILE));
      const end = add(first, s.rowBlock / TILE);
      b.for('tileRow', first, end, 1, (tileRow) => writeTileRow(b, p, shape, s, tileRow, s.fewTokens));
    };
    if (s.few === 0) unpacked();
    else b.if(compare('le', p.n, int(s.few)), packed, unpacked);
  });
}
