/** Loops over rows, columns and tokens, several at a time. */
import type { FunctionBuilder } from '../loops/builder.ts';
import { add, compare, div, int, mul, sub } from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';

/** `body` for from, from + step, ... below `to`, `unroll` of them written out at a time; the distance must divide. */
export function forSteps(
  b: FunctionBuilder,
  from: Expr | number,
  to: Expr | number,
  step: number,
  unroll: number,
  body: (at: Expr, u: number) => void,
): void {
  b.for('k', from, to, step * unroll, (k) => {
    for (let u = 0; u < unroll; u++) body(b.let('at', add(k, u * step)), u);
  });
}

/**
 * `body` for tiles of 0 .. n: full ones of `largest`, then halves of that down to 1 for what is left. The size
 * of a tile is fixed where its code is written, where it starts is not.
 */
export function forTiles(
  b: FunctionBuilder,
  n: Expr,
  largest: number,
  body: (first: Expr, size: number) => void,
): void {
  let done: Expr = int(0);
  for (let size = largest; size >= 1; size = Math.floor(size / 2)) {
    b.for('first', done, size === 1 ? n : sub(n, size - 1), size, (first) => body(first, size));
    if (size > 1) done = b.let('done', add(done, mul(div(sub(n, done), size), size)));
  }
}

/** `body` for tiles of rows from `from` to `to`: of `rows` while they fit, then single ones. */
export function forRows(
  b: FunctionBuilder,
  from: Expr,
  to: Expr,
  rows: number,
  body: (row: Expr, rows: number) => void,
): void {
  let done = from;
  if (rows > 1) {
    b.for('row', from, sub(to, rows - 1), rows, (row) => body(row, rows));
    done = b.let('done', add(from, mul(div(sub(to, from), rows), rows)));
  }
  b.for('row', done, to, 1, (row) => body(row, 1));
}

/** Rows of a tile of low-bit weights, in every encoding. */
export const TILE_ROWS = 16;

/**
 * The thread loop of a matrix product over blocks of `rowBlock` of the `rows` rows of weights. A block is `unpacked` for
 * all n tokens; for up to `few` of them, its rows of tiles are used as they are, `packed`, one after the other.
 */
export function forRowBlocks(
  b: FunctionBuilder,
  n: Expr,
  rows: number,
  { rowBlock, few }: { readonly rowBlock: number; readonly few: number },
  unpacked: (block: Expr) => void,
  packed: (tileRow: Expr) => void,
): void {
  b.thread('block', rows / rowBlock, (block) => {
    const eachTileRow = () => {
      const first = b.let('first', mul(block, rowBlock / TILE_ROWS));
      b.for('tileRow', first, add(first, rowBlock / TILE_ROWS), 1, packed);
    };
    if (few === 0) unpacked(block);
    else b.if(compare('le', n, int(few)), eachTileRow, () => unpacked(block));
  });
}
