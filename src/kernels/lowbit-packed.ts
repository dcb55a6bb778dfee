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
  type FieldTable,
  fieldTable,
  forRowTiles,
  LEAD,
  LEAD_INVERSE,
  type LowbitParams,
  type LowbitSchedule,
  type LowbitShape,
  leadCodes,
  MAX_CODE,
  type RowWalk,
  readTile,
  shiftBytes,
  storeRows,
  TILE,
  type TileAt,
  type TileCodes,
  tileFormat,
  tileRowBytes,
  type VectorSchedule,
  walkRow,
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
  readonly walk: RowWalk;
  readonly table: FieldTable | undefined;
}

/** Loads the rows' part of a tile and prefetches a later one. */
function loadTile({ b, p, s, rows, start, table }: Product, { byte }: TileAt): TileCodes {
  const from = b.let('from', add(start, byte));
  if (s.prefetchBytes > 0) b.prefetch(p.weight, add(from, s.prefetchBytes));
  return readTile(b, b.let('tile', b.load(p.weight, from, 4 * rows)), table);
}

/** Fields of a tile that are to be used, with the fours of columns they hold. */
function fieldsOf({ quads }: TileAt, hasLead: boolean): readonly (readonly [field: number, quad: number])[] {
  const before = hasLead ? 1 : 0;
  return Array.from({ length: quads - before }, (_, field) => [field, before + field] as const);
}

/** For every token, the `quad`-th four of a tile's activations in front of each row; `first` is its first activation. */
function forTokens(
  { b, p, k, rows, tokens }: Product,
  first: Expr,
  quad: number,
  body: (four: Expr, t: number) => void,
) {
  for (let t = 0; t < tokens; t++) {
    body(broadcastFour(b, p, add(first, 4 * quad + t * rowStride(k)), rows), t);
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
 * own that is shifted back at the end: that is exact, and saves a shift per field and tile. Leading codes are
 * left `LEAD` times too large likewise.
 */
function dot4Totals(product: Product): readonly Expr[] {
  const { b, s, x, rows, walk, table } = product;
  const hasLead = table !== undefined;
  const sets = Array.from({ length: s.chains }, () =>
    accumulators(product, 'dots', hasLead ? 5 : 4, 'i32', rows),
  );
  forRowTiles(b, walk, s.unroll, (at, u) => {
    const dots = sets[u % s.chains]!;
    const { fields, lead } = loadTile(product, at);
    const first = b.let('first', add(x, at.column));
    const addDots = (i: number, codes: Expr, quad: number, maxCode: number) =>
      forTokens(product, first, quad, (four, t) => {
        b.set(dots[t]![i]!, dot4(dots[t]![i]!, codes, four, maxCode));
      });
    if (lead !== undefined && s.shiftTop) addDots(4, b.let('codes', leadCodes(lead)), 0, MAX_CODE);
    else if (lead !== undefined) addDots(4, lead, 0, LEAD * MAX_CODE);
    for (const [field, quad] of fieldsOf(at, hasLead)) {
      const shifted = field === 3 && s.shiftTop;
      const inPlace = shifted ? 0 : 2 * field;
      const codes = b.let('codes', and(shifted ? shiftBytes(fields, 6) : fields, 3 << inPlace));
      addDots(field, codes, quad, MAX_CODE << inPlace);
    }
  });
  const sum = (parts: readonly Expr[]) => parts.reduce((total, part) => add(total, part));
  const undone = (dots: Expr, i: number) => {
    if (i === 4) return s.shiftTop ? dots : mul(dots, LEAD_INVERSE);
    return shift('right', dots, i === 3 && s.shiftTop ? 0 : 2 * i);
  };
  return sets[0]!.map((ofToken, t) =>
    sum(ofToken.map((_, i) => undone(sum(sets.map((dots) => dots[t]![i]!)), i))),
  );
}

/** Four columns of codes up to 2 add up to 2 * 2 * 128 to an i16 pair by pair; 64 times that is exactly -32768. */
const DOT2_QUADS = 64;

/** Up to as many tokens, fields are masked in place. */
const IN_PLACE_TOKENS = 2;

/** Adds a step's products of one field, `field` 0 or 1 of a tile that may be shifted, to one accumulator per token. */
type AddField = (
  product: Product,
  tile: Expr,
  first: Expr,
  quad: number,
  field: number,
  dots: readonly (readonly Expr[])[],
) => void;

/**
 * [product][token]. For few tokens, two accumulators each, which saves shifts: fields 0 and 2 and leading codes with codes as they are,
 * fields 1 and 3 with codes times 4, where fields 2 and 3 are fields 0 and 1 of the tile shifted right by 4. With more
 * tokens registers are what is short, and every field is shifted down, for all of them, to one accumulator each.
 */
function pairTotals(products: readonly Product[], addField: AddField): readonly (readonly Expr[])[] {
  const { b, s, tokens, walk } = products[0]!;
  const inPlace = tokens <= IN_PLACE_TOKENS;
  const perToken = inPlace ? 2 : 1;
  const step = (product: Product, dots: readonly (readonly Expr[])[]) => (at: TileAt) => {
    const { fields, lead } = loadTile(product, at);
    const first = b.let('first', add(product.x, at.column));
    if (lead !== undefined) addField(product, b.let('leading', shiftBytes(lead, 6)), first, 0, 0, dots);
    let shifted = fields;
    for (const [field, quad] of fieldsOf(at, product.table !== undefined)) {
      if (field > 0 && field % perToken === 0) shifted = b.let('shifted', shiftBytes(fields, 2 * field));
      addField(product, shifted, first, quad, field % perToken, dots);
    }
  };
  const totals = products.map((product) => accumulators(product, 'totals', perToken, 'i32', product.rows));
  if (s.multiply === 'madd') {
    products.forEach((product, i) => {
      forRowTiles(b, walk, s.unroll, step(product, totals[i]!));
    });
  } else {
    const addNarrow = (write: (body: (at: TileAt) => void) => void) => {
      products.forEach((product, part) => {
        const dots = accumulators(product, 'dots', perToken, 'i16', 2 * product.rows);
        write(step(product, dots));
        dots.forEach((ofToken, t) => {
          ofToken.forEach((dot, i) => {
            b.set(totals[part]![t]![i]!, add(totals[part]![t]![i]!, addPairs(dot)));
          });
        });
      });
    };
    const { end, last } = walk;
    // In place, a tile adds two fields of codes up to 8 to an accumulator: as much as 8 fields of codes up to 2.
    const blockTiles = Math.floor(DOT2_QUADS / (inPlace ? 8 : walk.quads));
    const blockStep = blockTiles * walk.step;
    const unroll = end % (walk.step * s.unroll) === 0 ? s.unroll : 1;
    b.for('block', 0, end, blockStep, (block) =>
      addNarrow((body) => {
        const blockEnd = add(block, blockStep);
        const to = end % blockStep === 0 ? blockEnd : b.let('end', min(blockEnd, int(end)));
        forSteps(b, block, to, walk.step, unroll, (count) => body(walk.at(count)));
      }),
    );
    if (last !== undefined) addNarrow((body) => body(last));
  }
  return totals.map((ofPart) =>
    ofPart.map(([low, high]) => (high === undefined ? low! : add(low!, shift('right', high, 2)))),
  );
}

function dot2Totals(products: readonly Product[]): readonly (readonly Expr[])[] {
  return pairTotals(products, (product, tile, first, quad, field, dots) => {
    const codes = product.b.let('codes', and(tile, 3 << (2 * field)));
    forTokens(product, first, quad, (four, t) => {
      const dot = dots[t]![field]!;
      product.b.set(dot, add(dot, dot2(codes, four, MAX_CODE << (2 * field))));
    });
  });
}

function maddTotals(products: readonly Product[]): readonly (readonly Expr[])[] {
  return pairTotals(products, (product, tile, first, quad, field, dots) => {
    const { b, rows } = product;
    const words = bitcast(tile, vector('u16', 2 * rows));
    const [even, odd] = [0, 8].map((by) => {
      const codes = and(shift('right', words, by), 3 << (2 * field));
      return b.let('codes', bitcast(codes, vector('i16', 2 * rows)));
    });
    forTokens(product, first, quad, (four, t) => {
      const dot = dots[t]![field]!;
      const [evenFour, oddFour] = widenPairs(b, four);
      b.set(dot, add(dot, madd(even!, evenFour)));
      b.set(dot, add(dot, madd(odd!, oddFour)));
    });
  });
}

const TOTALS = {
  dot4: (products: readonly Product[]) => products.map(dot4Totals),
  dot2: dot2Totals,
  madd: maddTotals,
};

/**
 * One row of tiles by all tokens, `tokens` of them at a time, on packed codes: rows are lanes, so that
 * activations are broadcast and there are no sums across lanes.
 */
export function writeTileRow(
  b: FunctionBuilder,
  p: LowbitParams,
  { m, k, encoding }: LowbitShape,
  s: VectorSchedule,
  tileRow: Expr,
  tokens: number,
): void {
  const rows = Math.min(s.rows, TILE);
  const format = tileFormat(encoding);
  const table = fieldTable(b, format);
  const walk = walkRow(k, format);
  const firstByte = b.let('firstByte', mul(tileRow, tileRowBytes(k, format)));
  const firstRow = b.let('firstRow', mul(tileRow, TILE));
  forTiles(b, p.n, tokens, (token, size) => {
    const x = b.let('x', mul(token, rowStride(k)));
    const someRows = (parts: readonly Expr[]) => {
      const products = parts.map((inTile) => {
        const start = b.let('start', add(firstByte, mul(inTile, 4)));
        return { b, p, k, s, rows, start, x, tokens: size, walk, table };
      });
      TOTALS[s.multiply](products).forEach((totals, i) => {
        const row = b.let('row', add(firstRow, parts[i]!));
        totals.forEach((total, t) => {
          storeRows(b, p, m, add(token, t), row, total);
        });
      });
    };
    const parts = Array.from({ length: TILE / rows }, (_, i) => int(i * rows));
    if (s.turns || parts.length === 1) someRows(parts);
    else b.for('inTile', 0, TILE, rows, (inTile) => someRows([inTile]));
  });
}

/** Matrix-vector product; with more tokens, one after the other. */
export function writeGemv(b: FunctionBuilder, p: LowbitParams, shape: LowbitShape, s: VectorSchedule): void {
  b.thread('tileRow', rowStride(shape.m) / TILE, (tileRow) => writeTileRow(b, p, shape, s, tileRow, 1));
}
