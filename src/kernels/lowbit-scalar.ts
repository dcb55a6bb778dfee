import type { FunctionBuilder } from '../loops/builder.ts';
import { add, and, cast, int, mul, shift } from '../loops/expr.ts';
import { rowStride } from './kernel.ts';
import { type LowbitParams, type LowbitShape, storeRows, TILE, TILE_BYTES, tileRowBytes } from './lowbit.ts';

/** Row by row without vectors, in little code: for machines that have none, and for reading. */
export function writeScalar(b: FunctionBuilder, p: LowbitParams, { m, k }: LowbitShape): void {
  b.thread('tileRow', rowStride(m) / TILE, (tileRow) => {
    const start = b.let('start', mul(tileRow, tileRowBytes(k)));
    b.for('token', 0, p.n, 1, (token) => {
      const x = b.let('x', mul(token, rowStride(k)));
      b.for('inTile', 0, TILE, 1, (inTile) => {
        const row = b.let('row', add(start, mul(inTile, 4)));
        const dot = b.var('dot', int(0));
        b.for('k', 0, rowStride(k), TILE, (at) => {
          const tile = b.let('tile', add(row, mul(at, TILE_BYTES / TILE)));
          const four = b.let('four', add(x, at));
          b.for('j', 0, 4, 1, (j) => {
            const byte = b.let('byte', cast(b.load(p.weight, add(tile, j)), 'i32'));
            for (let field = 0; field < 4; field++) {
              const activation = cast(b.load(p.q, add(add(four, j), 4 * field)), 'i32');
              b.set(dot, add(dot, mul(and(shift('right', byte, 2 * field), 3), activation)));
            }
          });
        });
        storeRows(b, p, m, token, add(mul(tileRow, TILE), inTile), dot);
      });
    });
  });
}
