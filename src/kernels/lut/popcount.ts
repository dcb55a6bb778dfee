/** Matrix-vector products bit by bit: bits of weights and of activations that are both set are counted. */
import { range } from '../../common/math.ts';
import type { FunctionBuilder } from '../../loops/builder.ts';
import {
  add,
  and,
  bitcast,
  cast,
  constant,
  float,
  mul,
  repeat,
  shift,
  sub,
  unary,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { LINE_COLUMNS, lineOfColumn, PLANE_BYTES, SPAN, TILE_ROWS, tileBytes } from '../group/bit-planes.ts';
import { joinPlanes, planesOf, storeResult } from '../group/shape.ts';
import { sumGroups } from '../group/sums.ts';
import { ROW_PAD, rowStride } from '../kernel.ts';
import { ACTIVATION_BITS, BIT_BYTES } from './bits.ts';
import { inRowOrder, type LutParams } from './gemv.ts';
import type { LutShape } from './shape.ts';
import { tableBytes } from './tables.ts';

/** Columns whose bits are counted in a byte: 16 counts of up to 8. */
const MOST_COLUMNS = 128;

/** One tile of 64 rows by all tokens, `lanes` rows at a time. */
export function writePopcountTile(
  b: FunctionBuilder,
  p: LutParams,
  shape: LutShape,
  lanes: number,
  tile: Expr,
): void {
  const { k, bits } = shape;
  const firstByte = b.let('firstByte', mul(tile, tileBytes(shape)));
  const words = vector('u16', lanes / 2);

  /** Of all rows, how many columns of `width` from `column` on have a bit of the weights and one of the activations. */
  const count = (weights: Expr, activations: Expr, column: Expr, width: number): readonly [Expr, Expr] => {
    const counts = b.var('counts', constant(vector('u8', lanes), 0));
    b.for('offset', 0, width, SPAN, (offset) => {
      const at = b.let('at', add(column, offset));
      const line = b.let('line', add(weights, lineOfColumn(at, bits)));
      const inPad = shift('right', and(at, ROW_PAD - 1), 3);
      const from = b.let('from', add(add(activations, and(at, -ROW_PAD)), inPad));
      for (const i of range(SPAN / LINE_COLUMNS)) {
        const byte = bitcast(b.load(p.tables, add(from, i)), vector('u8', 1));
        const both = and(b.load(p.weight, add(line, TILE_ROWS * i), lanes), repeat(byte, lanes));
        b.set(counts, add(counts, unary('popcount', both)));
      }
    });
    const pairs = b.let('pairs', bitcast(counts, words));
    return [b.let('even', and(pairs, 255)), b.let('odd', shift('right', pairs, 8))];
  };

  /** A plane of weights by all bits of a plane of activations: the highest bit counts -128. */
  const planeDot = (weights: Expr, activations: Expr, column: Expr, width: number): Expr => {
    const highest = add(activations, (ACTIVATION_BITS - 1) * BIT_BYTES);
    const sums = count(weights, highest, column, width).map((x) => b.var('sum', sub(constant(words, 0), x)));
    b.for('bit', 1, ACTIVATION_BITS, 1, (bit) => {
      const from = b.let('bits', sub(highest, mul(bit, BIT_BYTES)));
      for (const [i, counts] of count(weights, from, column, width).entries()) {
        b.set(sums[i]!, add(add(sums[i]!, sums[i]!), counts));
      }
    });
    const [even, odd] = sums.map((x) => b.let('wide', cast(bitcast(x, vector('i16', lanes / 2)), 'i32')));
    return inRowOrder(even!, odd!);
  };

  b.for('token', 0, p.n, 1, (token) => {
    const activations = b.let('activations', mul(token, tableBytes(shape)));
    b.for('inTile', 0, TILE_ROWS, lanes, (inTile) => {
      const row = b.let('row', add(mul(tile, TILE_ROWS), inTile));
      const start = b.let('start', add(firstByte, inTile));
      const place = { rows: lanes, tokens: 1, token, row };
      const total = b.var('total', float(0, lanes));
      const totals = { get: () => total, set: (_: number, value: Expr) => b.set(total, value) };
      sumGroups(b, p, shape, place, totals, (column, width) => {
        const dots = range(planesOf(shape)).map((activationPlane) => {
          const from = add(activations, activationPlane * rowStride(k));
          const dot = b.var('dot', constant(vector('i32', lanes), 0));
          const step = width % MOST_COLUMNS === 0 ? MOST_COLUMNS : Math.min(width, ROW_PAD);
          b.for('part', 0, width, step, (part) => {
            const at = b.let('column', add(column, part));
            for (const plane of range(bits)) {
              const weights = b.let('weights', add(start, plane * PLANE_BYTES));
              b.set(dot, add(dot, shift('left', planeDot(weights, from, at, step), plane)));
            }
          });
          return dot;
        });
        return [[b.let('joined', joinPlanes(dots))]];
      });
      storeResult(b, p, shape, token, row, total);
    });
  });
}
