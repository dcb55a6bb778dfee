import type { FunctionBuilder } from '../loops/builder.ts';
import { add, and, cast, div, int, mul, shift, sub } from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { rowStride } from './kernel.ts';
import {
  forRowTiles,
  LEAD,
  type LowbitParams,
  type LowbitShape,
  storeRows,
  TILE,
  type TileFormat,
  tileFormat,
  tileRowBytes,
  walkRow,
} from './lowbit.ts';

/** The codes of a byte in the order of their columns. */
function codesOf(b: FunctionBuilder, { hasLead }: TileFormat, byte: Expr): readonly Expr[] {
  if (!hasLead) return [0, 2, 4, 6].map((by) => and(shift('right', byte, by), 3));
  const lead = b.let('lead', div(byte, LEAD));
  const digits = [lead];
  let rest = b.let('rest', sub(byte, mul(lead, LEAD)));
  for (let i = 0; i < 4; i++) {
    const above = b.let('above', div(rest, 3));
    digits.push(b.let('digit', sub(rest, mul(above, 3))));
    rest = above;
  }
  return digits;
}

/**
 * Without vectors, in little code: for machines that have none. Rows are the innermost loop, which C compilers
 * turn into what vectors they know of themselves.
 */
export function writeScalar(b: FunctionBuilder, p: LowbitParams, { m, k, encoding }: LowbitShape): void {
  const format = tileFormat(encoding);
  const dots = b.local('dots', 'i32', TILE);
  b.thread('tileRow', rowStride(m) / TILE, (tileRow) => {
    const start = b.let('start', mul(tileRow, tileRowBytes(k, format)));
    b.for('token', 0, p.n, 1, (token) => {
      const x = b.let('x', mul(token, rowStride(k)));
      b.for('row', 0, TILE, 1, (row) => b.store(dots, row, int(0)));
      forRowTiles(b, walkRow(k, format), 1, ({ column, byte, quads }) => {
        const tile = b.let('tile', add(start, byte));
        const from = b.let('from', add(x, column));
        const q = Array.from({ length: 4 * quads }, (_, i) =>
          b.let('q', cast(b.load(p.q, add(from, i)), 'i32')),
        );
        b.for('row', 0, TILE, 1, (row) => {
          // Byte j of a row holds columns j, 4 + j, 8 + j, ...
          const codes = [0, 1, 2, 3].map((j) =>
            codesOf(b, format, b.let('byte', cast(b.load(p.weight, add(add(tile, mul(row, 4)), j)), 'i32'))),
          );
          const terms = q.map((value, i) => mul(codes[i % 4]![Math.floor(i / 4)]!, value));
          b.store(
            dots,
            row,
            terms.reduce((sum, term) => add(sum, term), b.load(dots, row)),
          );
        });
      });
      b.for('row', 0, TILE, 1, (row) => {
        storeRows(b, p, m, token, add(mul(tileRow, TILE), row), b.load(dots, row));
      });
    });
  });
}
