/** Reading weights encoded as `bit-planes`, see src/encodings/bit-planes.ts. */
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, and, binary, bitcast, cast, int, mul, shift, shuffle, vector } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { type GroupShape, TILE } from './shape.ts';

/** Rows of a tile, columns of a span and of a line, bytes of a plane of a span. */
export const TILE_ROWS = 64;
export const SPAN = 32;
export const LINE_COLUMNS = 8;
export const PLANE_BYTES = 256;

export function tileBytes({ k, bits }: GroupShape): number {
  return (rowStride(k) / SPAN) * bits * PLANE_BYTES;
}

/** Byte offset of the line of column `column` of plane 0 in a tile. */
export function lineOfColumn(column: Expr, bits: number): Expr {
  if (bits === 1) return mul(column, PLANE_BYTES / SPAN);
  const span = mul(shift('right', column, 5), bits * PLANE_BYTES);
  return add(span, mul(and(column, SPAN - LINE_COLUMNS), TILE_ROWS / LINE_COLUMNS));
}

/** Where row i of 16 is among their bytes. */
const PLACES = Array.from({ length: TILE }, (_, i) => 2 * (i & 7) + (i >> 3));

/** Moves bit j of a lane to bit 8j. */
const SPREAD = 0x204081;

/**
 * Calls `body` for the codes of the rows of block `block`, of `rowBlock` rows, which divides 64: 16 rows by 4 columns
 * as bytes, where `tileRow` is which 16 of the block, and the columns start at `at` + `column`.
 */
export function forPlaneCodes(
  b: FunctionBuilder,
  weight: BufferRef,
  shape: GroupShape,
  rowBlock: number,
  block: Expr,
  body: (tileRow: number, at: Expr, column: number, codes: Expr) => void,
): void {
  const perTile = TILE_ROWS / rowBlock;
  const tile = shift('right', block, Math.log2(perTile));
  const inTile = perTile === 1 ? int(0) : mul(and(block, perTile - 1), rowBlock);
  const blockStart = b.let('blockStart', add(mul(tile, tileBytes(shape)), inTile));
  for (let tileRow = 0; tileRow < rowBlock / TILE; tileRow++) {
    b.for('column', 0, rowStride(shape.k), LINE_COLUMNS, (at) => {
      const from = b.let('from', add(add(blockStart, tileRow * TILE), lineOfColumn(at, shape.bits)));
      const planes = Array.from({ length: shape.bits }, (_, plane) => {
        const bytes = b.load(weight, add(from, plane * PLANE_BYTES), TILE);
        return b.let('rows', cast(shuffle(bytes, PLACES), 'u32'));
      });
      for (const half of [0, 1]) {
        const codes = planes.map((rows, plane) => {
          const nibbles = half === 0 ? and(rows, 15) : shift('right', rows, 4);
          return shift('left', and(mul(nibbles, SPREAD), 0x01010101), plane);
        });
        const joined = b.let(
          'codes',
          codes.reduce((sum, bits) => binary('or', sum, bits)),
        );
        body(tileRow, at, 4 * half, bitcast(joined, vector('u8', 4 * TILE)));
      }
    });
  }
}
