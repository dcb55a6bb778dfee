/**
 * `t5b`: five trits a byte, 1.6 bits a weight, for kernels that keep rows in lanes.
 *
 * Rows are padded to a multiple of 64 and columns to one of 20, both with trit 0. The matrix is stored in tiles
 * of 16 rows x 20 columns = 64 bytes, [row tile][column tile]. In a tile, byte 4r + j holds five columns of row
 * r, those with equal k % 4, as codes t + 1 in base 3, the first of them with the greatest weight:
 *
 * ```
 * weight   81    1     3     9     27         byte = 81 * c[j] + c[4+j] + 3 * c[8+j] + 9 * c[12+j] + 27 * c[16+j]
 * column    j   4+j   8+j   12+j  16+j
 * ```
 *
 * A byte modulo 81, found by two subtractions and two minima, indexes a table of four 2-bit codes: those of
 * `i2`. What the subtractions took away is 81 times the first code.
 */
import type { TernaryWeight } from '../models/weights.ts';
import {
  packTernary,
  type TernaryTiles,
  TILE_ROWS,
  ternaryBytes,
  tileRowWords,
  unpackTernary,
} from './ternary-blocks.ts';

/** Four bytes at a time: each stays below 243, so that nothing is carried from one to the next. */
function joinCodes(c0: number, c1: number, c2: number, c3: number, c4: number): number {
  return (Math.imul(c0, 81) + c1 + Math.imul(c2, 3) + Math.imul(c3, 9) + Math.imul(c4, 27)) | 0;
}

/**
 * Packs the whole tiles of one row. A word of the source is 4 adjacent columns; of its bytes the codes are the 2 bits from
 * bit `shift` on, plus `more`, modulo 4: so trits become codes, and codes stay.
 */
function packRow(
  out: Int32Array,
  row: number,
  source: Int32Array,
  start: number,
  cols: number,
  shift: number,
  more: number,
): void {
  const plus = more * 0x01010101;
  const codes = (word: number) => (((word >>> shift) & 0x03030303) + plus) & 0x03030303;
  let from = start >> 2;
  let to = (row >> 4) * tileRowWords(cols, TILES) + (row & 15);
  for (let t = Math.floor(cols / TILES.tileColumns); t > 0; t--) {
    out[to] = joinCodes(
      codes(source[from]!),
      codes(source[from + 1]!),
      codes(source[from + 2]!),
      codes(source[from + 3]!),
      codes(source[from + 4]!),
    );
    from += 5;
    to += TILE_ROWS;
  }
}

const TILES: TernaryTiles = {
  tileColumns: 20,
  weights: [81, 1, 3, 9, 27],
  base: 3,
  trits(out, source, firstRow, rows, cols) {
    for (let r = 0; r < rows; r++) packRow(out, firstRow + r, source, r * cols, cols, 0, 1);
  },
  transcode(out, source, firstRow, quarter, cols) {
    for (let field = 0; field < 4; field++) {
      for (let r = 0; r < quarter; r++) {
        packRow(out, firstRow + field * quarter + r, source, r * cols, cols, 2 * field, 0);
      }
    }
  },
};

/** Bytes of an encoded matrix. */
export const t5bBytes = (rows: number, cols: number): number => ternaryBytes(rows, cols, TILES);

export const packT5b = (weight: TernaryWeight): Uint8Array => packTernary(weight, TILES);

/** The plain reading of the layout: trits, [rows, cols]. */
export const unpackT5b = (bytes: Uint8Array, rows: number, cols: number): Int8Array =>
  unpackTernary(bytes, rows, cols, TILES);
