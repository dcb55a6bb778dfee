import { range } from '../../common/math.ts';
import type { FunctionBuilder } from '../../loops/builder.ts';
import {
  add,
  addPairs,
  constant,
  dot2,
  dot4,
  int,
  madd,
  mul,
  repeat,
  shift,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { widenPairs } from '../lowbit.ts';
import { forSteps, forTiles } from '../tiles.ts';
import { fieldScales, forFields, SPANS, splitPairs } from './fields.ts';
import {
  columnBytes,
  type GroupParams,
  type GroupSchedule,
  type GroupShape,
  type Place,
  planesOf,
  storeResult,
  TILE,
  tokenStride,
} from './shape.ts';
import { sumGroups } from './sums.ts';

/** A schedule that is not scalar. */
export type VectorSchedule = GroupSchedule & { readonly multiply: 'dot4' | 'dot2' | 'madd' };

/** Some rows of a row of tiles by some tokens. */
interface Product {
  readonly b: FunctionBuilder;
  readonly p: GroupParams;
  readonly shape: GroupShape;
  readonly s: VectorSchedule;
  readonly place: Place;
  /** Byte of the weights where the rows start. */
  readonly start: Expr;
  /** Index of the first token's first activation. */
  readonly x: Expr;
}

/** [token][plane][scale of fields] */
type Accumulators = readonly (readonly (readonly Expr[])[])[];

/** Columns until an i16 accumulator is full: 4 columns add up to 2 * 128 * (2^bits - 1) to it. */
export const DOT2_COLUMNS: Readonly<Record<number, number>> = { 1: 512, 2: 128, 3: 64, 4: 32, 6: 8 };

/**
 * The same of codes in place: a field of the largest scale adds up to 2^scale times that, once in a half of a byte.
 */
const IN_PLACE_COLUMNS: Readonly<Record<number, number>> = { 1: 256, 2: 64, 3: 64, 4: 32, 6: 8 };

/** The scales of fields, an accumulator for each. */
const scalesOf = ({ bits }: GroupShape, { inPlace }: VectorSchedule) => (inPlace ? fieldScales(bits) : [0]);

/** What products of a field are added to, and what is done when they are. */
interface Sums {
  before(columnInSpan: number): Accumulators;
  after(columnInSpan: number): void;
}

const inOne = (dots: Accumulators): Sums => ({ before: () => dots, after: () => {} });

/** Adds the products of `width` columns from column `column` on. */
function addSpans(product: Product, column: Expr, width: number, sums: Sums): void {
  const { b, p, shape, s, place, start, x } = product;
  const { columns, tiles } = SPANS[shape.bits]!;
  const scales = scalesOf(shape, s);
  const largest = (scale: number) => (2 ** shape.bits - 1) << scale;
  const unroll = Math.max(
    1,
    ...range(width / columns + 1).filter((u) => (width / columns) % u === 0 && u * columns <= s.unroll),
  );
  forSteps(b, 0, width, columns, unroll, (offset) => {
    const at = b.let('at', add(column, offset));
    const from = b.let('from', add(start, mul(at, columnBytes(shape.bits))));
    if (s.prefetchBytes > 0) {
      for (const tile of range(tiles)) b.prefetch(p.weight, add(from, s.prefetchBytes + 64 * tile));
    }
    const loaded = range(tiles).map((tile) =>
      b.let('tile', b.load(p.weight, add(from, 64 * tile), 4 * place.rows)),
    );
    const first = b.let('first', add(x, at));
    forFields(b, shape.bits, loaded, s.inPlace, ({ column: inSpan, scale, codes }) => {
      const pairs = s.multiply === 'madd' ? splitPairs(b, codes) : undefined;
      const dots = sums.before(inSpan);
      for (const t of range(place.tokens)) {
        for (const plane of range(planesOf(shape))) {
          const q = add(first, t * tokenStride(shape) + plane * rowStride(shape.k) + inSpan);
          const four = b.let('four', repeat(b.load(p.q, q, 4), place.rows));
          const dot = dots[t]![plane]![scales.indexOf(scale)]!;
          if (s.multiply === 'dot4') b.set(dot, dot4(dot, codes, four, largest(scale)));
          if (s.multiply === 'dot2') b.set(dot, add(dot, dot2(codes, four, largest(scale))));
          if (pairs === undefined) continue;
          for (const [i, half] of widenPairs(b, four).entries()) b.set(dot, add(dot, madd(pairs[i]!, half)));
        }
      }
      sums.after(inSpan);
    });
  });
}

/** One sum of those of fields of several scales. */
function joinScales(sums: readonly Expr[], scales: readonly number[]): Expr {
  const [first, ...others] = sums.map((sum, i) => (scales[i] === 0 ? sum : shift('right', sum, scales[i]!)));
  return others.reduce((a, b) => add(a, b), first!);
}

function partDots(product: Product, column: Expr, width: number): readonly (readonly Expr[])[] {
  const { b, shape, s, place } = product;
  const narrow = s.multiply === 'dot2';
  const accumulators = (name: string, count: number, type: Expr['type']) =>
    range(place.tokens).map(() =>
      range(planesOf(shape)).map(() => range(count).map(() => b.var(name, constant(type, 0)))),
    );
  const scales = scalesOf(shape, s);
  const wide = vector('i32', place.rows);
  if (!narrow) {
    const dots = accumulators('dots', scales.length, wide);
    addSpans(product, column, width, inOne(dots));
    return dots.map((planes) => planes.map((sums) => joinScales(sums, scales)));
  }
  const some = (from: Expr, columns: number) => {
    const dots = accumulators('dots', scales.length, vector('i16', 2 * place.rows));
    addSpans(product, from, columns, inOne(dots));
    return dots.map((planes) => planes.map((sums) => addPairs(joinScales(sums, scales))));
  };
  const most = (s.inPlace ? IN_PLACE_COLUMNS : DOT2_COLUMNS)[shape.bits]!;
  if (width <= most) return some(column, width);
  const totals = accumulators('totals', 1, wide);
  const addToTotals = (found: readonly (readonly Expr[])[]) => {
    for (const [t, planes] of found.entries()) {
      for (const [i, sum] of planes.entries()) b.set(totals[t]![i]![0]!, add(totals[t]![i]![0]!, sum));
    }
  };
  if (most < SPANS[shape.bits]!.columns) {
    // Accumulators are full before a span is through.
    let dots: Accumulators = [];
    addSpans(product, column, width, {
      before(inSpan) {
        if (inSpan % most === 0) dots = accumulators('dots', 1, vector('i16', 2 * place.rows));
        return dots;
      },
      after(inSpan) {
        if ((inSpan + 4) % most === 0)
          addToTotals(dots.map((planes) => planes.map((sums) => addPairs(sums[0]!))));
      },
    });
  } else {
    const full = Math.floor(width / most) * most;
    b.for('block', 0, full, most, (block) => addToTotals(some(b.let('from', add(column, block)), most)));
    if (full < width) addToTotals(some(b.let('from', add(column, full)), width - full));
  }
  return totals.map((planes) => planes.map(([sum]) => sum!));
}

/**
 * One row of tiles by all tokens, `tokens` of them at a time, on packed codes: rows are lanes, so that activations
 * are broadcast and there are no sums across lanes.
 */
export function writeTileRow(
  b: FunctionBuilder,
  p: GroupParams,
  shape: GroupShape,
  s: VectorSchedule,
  tileRow: Expr,
  tokens: number,
): void {
  const rows = Math.min(s.rows, TILE);
  const firstByte = b.let('firstByte', mul(tileRow, rowStride(shape.k) * columnBytes(shape.bits)));
  const firstRow = b.let('firstRow', mul(tileRow, TILE));
  forTiles(b, p.n, tokens, (token, size) => {
    const x = b.let('x', mul(token, tokenStride(shape)));
    const someRows = (inTile: Expr) => {
      const row = b.let('row', add(firstRow, inTile));
      const place = { rows, tokens: size, token, row };
      const start = b.let('start', add(firstByte, mul(inTile, 4)));
      const product: Product = { b, p, shape, s, place, start, x };
      const sums = range(size).map(() => b.var('sum', constant(vector('f32', rows), 0)));
      const totals = {
        get: (t: number) => sums[t]!,
        set: (t: number, value: Expr) => b.set(sums[t]!, value),
      };
      sumGroups(b, p, shape, place, totals, (column, width) => partDots(product, column, width));
      for (const [t, sum] of sums.entries()) storeResult(b, p, shape, add(token, t), row, sum);
    };
    if (rows === TILE) someRows(int(0));
    else b.for('inTile', 0, TILE, rows, someRows);
  });
}

/** Matrix-vector product; with more tokens, one after the other. */
export function writeGemv(b: FunctionBuilder, p: GroupParams, shape: GroupShape, s: VectorSchedule): void {
  b.thread('tileRow', rowStride(shape.m) / TILE, (tileRow) => writeTileRow(b, p, shape, s, tileRow, 1));
}
