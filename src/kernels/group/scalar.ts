import type { FunctionBuilder } from '../../loops/builder.ts';
import { add, and, binary, cast, int, mul, shift } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { SPANS } from './fields.ts';
import {
  columnBytes,
  type GroupParams,
  type GroupShape,
  laneOf,
  PLANE_SHIFT,
  planesOf,
  storeResult,
  sumGroups,
  TILE,
  tokenStride,
} from './shape.ts';

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

/** Code of column `column` of a span, from the bytes of its tiles for one row. */
function codeOf(bytes: readonly (readonly Expr[])[], bits: number, column: number): Expr {
  const field = (tile: number, width: number, inTile: number) => {
    const byte = bytes[tile]![inTile % 4]!;
    return and(shift('right', byte, width * Math.floor(inTile / 4)), 2 ** width - 1);
  };
  if (bits !== 3) return field(0, bits, column);
  const low = field(Math.floor(column / 16), 2, column % 16);
  return binary('or', low, shift('left', field(2, 1, column), 2));
}

/**
 * Without vectors, in little code: for machines that have none. One row at a time, so that the sums of groups are
 * those of the other kernels with one lane.
 */
export function writeScalar(b: FunctionBuilder, p: GroupParams, shape: GroupShape): void {
  const { m, k, bits } = shape;
  const { columns, tiles } = SPANS[bits]!;
  b.thread('tileRow', rowStride(m) / TILE, (tileRow) => {
    const firstByte = b.let('firstByte', mul(tileRow, rowStride(k) * columnBytes(bits)));
    b.for('token', 0, p.n, 1, (token) => {
      const x = b.let('x', mul(token, tokenStride(shape)));
      b.for('inTile', 0, TILE, 1, (inTile) => {
        const row = b.let('row', add(mul(tileRow, TILE), inTile));
        const start = b.let('start', add(firstByte, mul(inTile, 4)));
        const place = { rows: 1, tokens: 1, token, lane: laneOf(b, shape, row) };
        const total = b.var('total', { kind: 'const', type: { kind: 'f32', lanes: 1 }, value: 0 });
        const totals = { get: () => total, set: (_: number, value: Expr) => b.set(total, value) };
        sumGroups(b, p, shape, place, totals, (column, width) => {
          const dot = b.var('dot', int(0));
          b.for('k', 0, width, columns, (offset) => {
            const at = b.let('at', add(column, offset));
            const from = b.let('from', add(start, mul(at, columnBytes(bits))));
            const bytes = range(tiles).map((tile) =>
              range(4).map((j) => b.let('byte', cast(b.load(p.weight, add(from, 64 * tile + j)), 'i32'))),
            );
            const first = b.let('first', add(x, at));
            const activation = (c: number) => {
              const high = cast(b.load(p.q, add(first, c)), 'i32');
              if (planesOf(shape) === 1) return high;
              return add(
                shift('left', high, PLANE_SHIFT),
                cast(b.load(p.q, add(first, rowStride(k) + c)), 'i32'),
              );
            };
            const terms = range(columns).map((c) => mul(codeOf(bytes, bits, c), activation(c)));
            b.set(
              dot,
              terms.reduce((sum, term) => add(sum, term), dot),
            );
          });
          return [dot];
        });
        storeResult(b, p, shape, token, row, total);
      });
    });
  });
}
