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
  widenPairs,
} from './lowbit.ts';
import { forSteps } from './tiles.ts';

/** The rows of one tile row that are in registers together. */
interface Stream {
  /** Byte of the weights where they start. */
  readonly start: Expr;
}

interface Product {
  readonly b: FunctionBuilder;
  readonly p: LowbitParams;
  readonly k: number;
  readonly s: LowbitSchedule;
  /** Rows of a stream: lanes of the accumulators. */
  readonly rows: number;
  readonly streams: readonly Stream[];
  /** Index of the token's first activation. */
  readonly x: Expr;
}

/** Loads 16 columns of every stream and prefetches later ones. */
function loadTiles({ b, p, s, rows, streams }: Product, at: Expr): readonly Expr[] {
  return streams.map(({ start }) => {
    const from = b.let('from', add(start, mul(at, TILE_BYTES / TILE)));
    if (s.prefetchBytes > 0) b.prefetch(p.weight, add(from, s.prefetchBytes));
    return b.let('tile', b.load(p.weight, from, 4 * rows));
  });
}

function accumulators(b: FunctionBuilder, name: string, count: number, kind: 'i16' | 'i32', lanes: number) {
  return Array.from({ length: count }, () => b.var(name, constant(vector(kind, lanes), 0)));
}

/**
 * Each field is masked in place, so that its codes are 4^field times too large, and has an accumulator of its
 * own that is shifted back at the end: that is exact, and saves a shift per field and tile.
 */
function dot4Totals(product: Product): readonly Expr[] {
  const { b, p, s, rows, streams, x, k } = product;
  const fields = [0, 1, 2, 3];
  const dots = streams.map(() => accumulators(b, 'dots', 4, 'i32', rows));
  forSteps(b, 0, rowStride(k), TILE, s.unroll, (at) => {
    const tiles = loadTiles(product, at);
    for (const field of fields) {
      const shifted = field === 3 && s.shiftTop;
      const four = broadcastFour(b, p, add(add(x, at), 4 * field), rows);
      const inPlace = shifted ? 0 : 2 * field;
      tiles.forEach((tile, i) => {
        const codes = and(shifted ? shiftBytes(tile, 6) : tile, 3 << inPlace);
        b.set(dots[i]![field]!, dot4(dots[i]![field]!, codes, four, MAX_CODE << inPlace));
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

/**
 * Two accumulators: fields 0 and 2 with codes as they are, fields 1 and 3 with codes times 4. Fields 2 and 3 are
 * fields 0 and 1 of the tile shifted right by 4.
 */
function pairTotals(product: Product, write: (at: Expr, dots: readonly (readonly Expr[])[]) => void) {
  const { b, k, s, rows, streams } = product;
  const totals = streams.map(() => accumulators(b, 'totals', 2, 'i32', rows));
  const stride = rowStride(k);
  if (s.multiply === 'madd') {
    forSteps(b, 0, stride, TILE, s.unroll, (at) => write(at, totals));
  } else {
    b.for('block', 0, stride, DOT2_COLUMNS, (block) => {
      const dots = streams.map(() => accumulators(b, 'dots', 2, 'i16', 2 * rows));
      const end = add(block, DOT2_COLUMNS);
      const to = stride % DOT2_COLUMNS === 0 ? end : b.let('end', min(end, int(stride)));
      forSteps(b, block, to, TILE, s.unroll, (at) => write(at, dots));
      dots.forEach((pair, i) => {
        pair.forEach((dot, j) => {
          b.set(totals[i]![j]!, add(totals[i]![j]!, addPairs(dot)));
        });
      });
    });
  }
  return totals.map(([low, high]) => add(low!, shift('right', high!, 2)));
}

function dot2Totals(product: Product): readonly Expr[] {
  const { b, p, rows, x } = product;
  return pairTotals(product, (at, dots) => {
    const tiles = loadTiles(product, at);
    for (const half of [0, 1]) {
      const nibbles = half === 0 ? tiles : tiles.map((tile) => b.let('high', shiftBytes(tile, 4)));
      for (const field of [0, 1]) {
        const four = broadcastFour(b, p, add(add(x, at), 8 * half + 4 * field), rows);
        nibbles.forEach((tile, i) => {
          const dot = dots[i]![field]!;
          b.set(dot, add(dot, dot2(and(tile, 3 << (2 * field)), four, MAX_CODE << (2 * field))));
        });
      }
    }
  });
}

function maddTotals(product: Product): readonly Expr[] {
  const { b, p, rows, x } = product;
  const pairs = vector('i16', 2 * rows);
  const codes = (tile: Expr, shiftBy: number, field: number) => {
    const words = bitcast(tile, vector('u16', 2 * rows));
    return bitcast(and(shift('right', words, shiftBy), 3 << (2 * field)), pairs);
  };
  return pairTotals(product, (at, dots) => {
    const tiles = loadTiles(product, at);
    for (const half of [0, 1]) {
      for (const field of [0, 1]) {
        const four = broadcastFour(b, p, add(add(x, at), 8 * half + 4 * field), rows);
        const [even, odd] = widenPairs(b, four);
        tiles.forEach((tile, i) => {
          const dot = dots[i]![field]!;
          b.set(dot, add(dot, madd(codes(tile, 4 * half, field), even)));
          b.set(dot, add(dot, madd(codes(tile, 4 * half + 8, field), odd)));
        });
      }
    }
  });
}

const TOTALS = { dot4: dot4Totals, dot2: dot2Totals, madd: maddTotals };

/**
 * Matrix-vector product on packed codes: rows are lanes, so that activations are broadcast and there are no
 * sums across lanes. Several rows of tiles at a time share the broadcasts.
 */
export function writeGemv(
  b: FunctionBuilder,
  p: LowbitParams,
  { m, k }: LowbitShape,
  s: LowbitSchedule & { readonly multiply: keyof typeof TOTALS },
): void {
  const rows = Math.min(s.rows, TILE);
  const tileRows = Math.max(1, s.rows / TILE);
  b.thread('group', rowStride(m) / (TILE * tileRows), (group) => {
    b.for('token', 0, p.n, 1, (token) => {
      const x = b.let('x', mul(token, rowStride(k)));
      const firstTile = b.let('firstTile', mul(group, tileRows));
      const someRows = (inTile: Expr) => {
        const streams = Array.from({ length: tileRows }, (_, i) => ({
          start: b.let('start', add(mul(add(firstTile, i), tileRowBytes(k)), mul(inTile, 4))),
        }));
        const totals = TOTALS[s.multiply]({ b, p, k, s, rows, streams, x });
        totals.forEach((total, i) => {
          const row = b.let('row', add(mul(add(firstTile, i), TILE), inTile));
          storeRows(b, p, m, token, row, total);
        });
      };
      if (rows === TILE) someRows(int(0));
      else b.for('inTile', 0, TILE, rows, someRows);
    });
  });
}
