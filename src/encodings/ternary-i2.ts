/**
 * `i2`: two bits a weight, code = trit + 1, for kernels that keep rows in lanes.
 *
 * Rows are padded to a multiple of 64 and so are columns, both with code 1 (trit 0). The matrix is stored in
 * tiles of 16 rows x 16 columns = 64 bytes, [row tile][column tile]. In a tile, byte 4r + j holds four
 * columns of row r, those with equal k % 4:
 *
 * ```
 * bits     76   54   32   10
 * column  12+j  8+j  4+j   j
 * ```
 *
 * so that masking one field of the 64 bytes leaves, for each of 16 rows, the codes of 4 adjacent columns:
 * one `dot4` of a vector whose 32-bit lanes are rows.
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

/**
 * Packs the whole tiles of trits. A word of the source is 4 adjacent columns, and so is a field of a word of
 * the output; `+ 1` and `& 3` turn the bytes -1, 0, 1 into codes without a carry between bytes.
 */
function packTrits(out: Int32Array, source: Int32Array, firstRow: number, rows: number, cols: number): void {
  const tiles = cols >> 4;
  const rowWords = tileRowWords(cols, TILES);
  const code = (word: number) => ((word & 0x03030303) + 0x01010101) & 0x03030303;
  for (let r = 0; r < rows; r++) {
    const row = firstRow + r;
    let from = (r * cols) >> 2;
    let to = (row >> 4) * rowWords + (row & 15);
    for (let t = 0; t < tiles; t++) {
      out[to] =
        code(source[from]!) |
        (code(source[from + 1]!) << 2) |
        (code(source[from + 2]!) << 4) |
        (code(source[from + 3]!) << 6);
      from += 4;
      to += TILE_ROWS;
    }
  }
}

/**
 * Packs the whole tiles of Hugging Face's packing, without unpacking it: there, field i of 4 words holds 16
 * columns of row r + i quarter, here, one word does. That is a transposition of 4 x 4 fields, in two steps
 * that each swap half of the fields of two words.
 */
function transcode(
  out: Int32Array,
  source: Int32Array,
  firstRow: number,
  quarter: number,
  cols: number,
): void {
  const tiles = cols >> 4;
  const rowWords = tileRowWords(cols, TILES);
  const start = (row: number) => (row >> 4) * rowWords + (row & 15);
  for (let r = 0; r < quarter; r++) {
    let from = (r * cols) >> 2;
    let to0 = start(firstRow + r);
    let to1 = start(firstRow + r + quarter);
    let to2 = start(firstRow + r + 2 * quarter);
    let to3 = start(firstRow + r + 3 * quarter);
    for (let t = 0; t < tiles; t++) {
      const w0 = source[from]!;
      const w1 = source[from + 1]!;
      const w2 = source[from + 2]!;
      const w3 = source[from + 3]!;
      const low02 = (w0 & 0x0f0f0f0f) | ((w2 & 0x0f0f0f0f) << 4);
      const low13 = (w1 & 0x0f0f0f0f) | ((w3 & 0x0f0f0f0f) << 4);
      const high02 = ((w0 >>> 4) & 0x0f0f0f0f) | (w2 & ~0x0f0f0f0f);
      const high13 = ((w1 >>> 4) & 0x0f0f0f0f) | (w3 & ~0x0f0f0f0f);
      out[to0] = (low02 & 0x33333333) | ((low13 & 0x33333333) << 2);
      out[to1] = ((low02 >>> 2) & 0x33333333) | (low13 & ~0x33333333);
      out[to2] = (high02 & 0x33333333) | ((high13 & 0x33333333) << 2);
      out[to3] = ((high02 >>> 2) & 0x33333333) | (high13 & ~0x33333333);
      from += 4;
      to0 += TILE_ROWS;
      to1 += TILE_ROWS;
      to2 += TILE_ROWS;
      to3 += TILE_ROWS;
    }
  }
}

const TILES: TernaryTiles = {
  tileColumns: 16,
  weights: [1, 4, 16, 64],
  base: 4,
  trits: packTrits,
  transcode,
};

/** Bytes of an encoded matrix. */
export const i2Bytes = (rows: number, cols: number): number => ternaryBytes(rows, cols, TILES);

export const packI2 = (weight: TernaryWeight): Uint8Array => packTernary(weight, TILES);

/** The plain reading of the layout: trits, [rows, cols]. */
export const unpackI2 = (bytes: Uint8Array, rows: number, cols: number): Int8Array =>
  unpackTernary(bytes, rows, cols, TILES);
