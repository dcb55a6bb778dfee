import type { FunctionBuilder } from '../loops/builder.ts';
import { add, and, cast, int, mul, shift } from '../loops/expr.ts';
import { rowStride } from './kernel.ts';
import { type LowbitParams, type LowbitShape, storeRows, TILE, TILE_BYTES, tileRowBytes } from './lowbit.ts';

/**
 * Without vectors, in little code: for machines that have none. Rows are the innermost loop, which C compilers
 * turn into what vectors they know of themselves.
 */
export function writeScalar(b: FunctionBuilder, p: LowbitParams, { m, k }: LowbitShape): void {
  const dots = b.local('dots', 'i32', TILE);
  const columns = Array.from({ length: TILE }, (_, i) => i);
  b.thread('tileRow', rowStride(m) / TILE, (tileRow) => {
    const start = b.let('start', mul(tileRow, tileRowBytes(k)));
    b.for('token', 0, p.n, 1, (token) => {
      const x = b.let('x', mul(token, rowStride(k)));
      b.for('row', 0, TILE, 1, (row) => b.store(dots, row, int(0)));
      b.for('k', 0, rowStride(k), TILE, (at) => {
        const tile = b.let('tile', add(start, mul(at, TILE_BYTES / TILE)));
        const from = b.let('from', add(x, at));
        const q = columns.map((i) => b.let('q', cast(b.load(p.q, add(from, i)), 'i32')));
        b.for('row', 0, TILE, 1, (row) => {
          const bytes = [0, 1, 2, 3].map((j) =>
            b.let('byte', cast(b.load(p.weight, add(add(tile, mul(row, 4)), j)), 'i32')),
          );
          // Byte j of a row holds columns j, 4 + j, 8 + j and 12 + j.
          const terms = columns.map((i) =>
            mul(and(shift('right', bytes[i % 4]!, 2 * Math.floor(i / 4)), 3), q[i]!),
          );
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
