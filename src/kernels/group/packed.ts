import { range } from '../../common/math.ts';
import type { FunctionBuilder } from '../../loops/builder.ts';
import { add, addPairs, constant, int, mul, shift, vector } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { forSteps, forTiles } from '../tiles.ts';
import {
  accumulators,
  addDots,
  addInParts,
  addProducts,
  DOT2_COLUMNS,
  type Dots,
  type VectorSchedule,
  type Writer,
} from './dots.ts';
import { fieldScales, forFields, SPANS, splitPairs } from './fields.ts';
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

/** Some rows of a row of tiles by some tokens. */
interface Product extends Writer {
  readonly place: Place;
  /** Byte of the weights where the rows start. */
  readonly start: Expr;
  /** Index of the first token's first activation. */
  readonly x: Expr;
}

/** [token][plane][scale of fields] */
type Accumulators = readonly (readonly (readonly Expr[])[])[];

/**
 * `DOT2_COLUMNS` of codes in place: a field of the largest scale adds up to 2^scale times that, once in a half of a byte.
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
      const parts = s.multiply === 'madd' ? splitPairs(b, codes) : [codes];
      const dots = sums.before(inSpan);
      const largest = (2 ** shape.bits - 1) << scale;
      addProducts(
        product,
        place,
        parts,
        largest,
        first,
        inSpan,
        (t, plane) => dots[t]![plane]![scales.indexOf(scale)]!,
      );
      sums.after(inSpan);
    });
  });
}

/** One sum of those of fields of several scales. */
function joinScales(sums: readonly Expr[], scales: readonly number[]): Expr {
  const [first, ...others] = sums.map((sum, i) => (scales[i] === 0 ? sum : shift('right', sum, scales[i]!)));
  return others.reduce((a, b) => add(a, b), first!);
}

function partDots(product: Product, column: Expr, width: number): Dots {
  const { b, shape, s, place } = product;
  const { rows, tokens } = place;
  const scales = scalesOf(shape, s);
  const ofScales = (type: Expr['type']): Accumulators =>
    range(tokens).map(() =>
      range(planesOf(shape)).map(() => scales.map(() => b.var('dots', constant(type, 0)))),
    );
  const join = (dots: Accumulators) => dots.map((planes) => planes.map((sums) => joinScales(sums, scales)));
  if (s.multiply !== 'dot2') {
    const dots = ofScales(vector('i32', rows));
    addSpans(product, column, width, inOne(dots));
    return join(dots);
  }
  const narrow = () => ofScales(vector('i16', 2 * rows));
  const widen = (dots: Accumulators) => join(dots).map((planes) => planes.map(addPairs));
  const some = (from: Expr, columns: number) => {
    const dots = narrow();
    addSpans(product, from, columns, inOne(dots));
    return widen(dots);
  };
  const most = (s.inPlace ? IN_PLACE_COLUMNS : DOT2_COLUMNS)[shape.bits]!;
  if (width <= most) return some(column, width);
  const totals = accumulators(product, 'totals', tokens, vector('i32', rows));
  if (most < SPANS[shape.bits]!.columns) {
    // Accumulators are full before a span is through.
    let dots: Accumulators = [];
    addSpans(product, column, width, {
      before(inSpan) {
        if (inSpan % most === 0) dots = narrow();
        return dots;
      },
      after(inSpan) {
        if ((inSpan + 4) % most === 0) addDots(product, totals, widen(dots));
      },
    });
  } else addInParts(product, totals, column, width, most, some);
  return totals;
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
