import { range } from '../../common/math.ts';
import type { FunctionBuilder } from '../../loops/builder.ts';
import { add, and, binary, cast, int, mul, shift } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { SPANS } from './fields.ts';
import {
  columnBytes,
  type GroupParams,
  type GroupShape,
  PLANE_SHIFT,
  planesOf,
  storeResult,
  TILE,
  tokenStride,
} from './shape.ts';
import { sumGroups } from './sums.ts';

/** Code of column `column` of a span, from the bytes of its tiles for one row. */
function codeOf(bytes: readonly (readonly Expr[])[], bits: number, column: number): Expr {
  const field = (tile: number, width: number, inTile: number) => {
    const byte = bytes[tile]![inTile % 4]!;
    return and(shift('right', byte, width * Math.floor(inTile / 4)), 2 ** width - 1);
  };
  if (bits !== 3 && bits !== 6) return field(0, bits, column);
  const [width, lowColumns] = [(2 * bits) / 3, 48 / bits];
  const low = field(Math.floor(column / lowColumns), width, column % lowColumns);
  return binary('or', low, shift('left', field(2, bits / 3, column), width));
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
        const place = { rows: 1, tokens: 1, token, row };
        const total = b.var('total', { kind: 'const', type: { kind: 'f32', lanes: 1 }, value: 0 });
        const totals = { get: () => total, set: (_: number, value: Expr) => b.set(total, value) };
        sumGroups(b, p, shape, place, totals, (column, width) => {
          // The planes of an activation are one number, but where their sums must stay apart.
          const dots = range(p.blocks === undefined ? 1 : planesOf(shape)).map(() => b.var('dot', int(0)));
          b.for('k', 0, width, columns, (offset) => {
            const at = b.let('at', add(column, offset));
            const from = b.let('from', add(start, mul(at, columnBytes(bits))));
            const bytes = range(tiles).map((tile) =>
              range(4).map((j) => b.let('byte', cast(b.load(p.weight, add(from, 64 * tile + j)), 'i32'))),
            );
            const first = b.let('first', add(x, at));
            const ofPlane = (plane: number, c: number) =>
              cast(b.load(p.q, add(first, plane * rowStride(k) + c)), 'i32');
            const activation = (plane: number, c: number) =>
              dots.length === planesOf(shape)
                ? ofPlane(plane, c)
                : add(shift('left', ofPlane(0, c), PLANE_SHIFT), ofPlane(1, c));
            for (const [plane, dot] of dots.entries()) {
              const terms = range(columns).map((c) => mul(codeOf(bytes, bits, c), activation(plane, c)));
              b.set(
                dot,
                terms.reduce((sum, term) => add(sum, term), dot),
              );
            }
          });
          return [dots];
        });
        storeResult(b, p, shape, token, row, total);
      });
    });
  });
}
