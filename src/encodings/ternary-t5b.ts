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
import { alignUp } from '../common/math.ts';
import type { TernaryWeight } from '../models/weights.ts';
import { packTernary } from './ternary-blocks.ts';

const PAD = 64;
const TILE_ROWS = 16;
const TILE_COLUMNS = 20;
/** What the codes of a byte count, in the order of their columns. */
const WEIGHTS = [81, 1, 3, 9, 27] as const;
/** Five codes 1. */
const ZERO_TRITS = 121;

const columnTiles = (cols: number) => Math.ceil(alignUp(cols, PAD) / TILE_COLUMNS);

/** Bytes of an encoded matrix. */
export function t5bBytes(rows: number, cols: number): number {
  return (alignUp(rows, PAD) / TILE_ROWS) * columnTiles(cols) * PAD;
}

/** Where the code of one element lies: its byte, and what the code counts there. */
function position(row: number, col: number, colTiles: number): { byte: number; weight: number } {
  const tile = (row >> 4) * colTiles + Math.floor(col / TILE_COLUMNS);
  const within = col % TILE_COLUMNS;
  return { byte: tile * PAD + 4 * (row & 15) + (within & 3), weight: WEIGHTS[within >> 2]! };
}

/** Packs columns `from` to `cols` of every row, one element at a time, over trits 0. */
function packPlain(
  out: Uint8Array,
  trits: Int8Array,
  firstRow: number,
  rows: number,
  cols: number,
  from: number,
): void {
  const colTiles = columnTiles(cols);
  for (let r = 0; r < rows; r++) {
    for (let c = from; c < cols; c++) {
      const { byte, weight } = position(firstRow + r, c, colTiles);
      out[byte] = out[byte]! + weight * trits[r * cols + c]!;
    }
  }
}

/** Four bytes at a time: each stays below 243, so that nothing is carried from one to the next. */
function joinCodes(c0: number, c1: number, c2: number, c3: number, c4: number): number {
  return (Math.imul(c0, 81) + c1 + Math.imul(c2, 3) + Math.imul(c3, 9) + Math.imul(c4, 27)) | 0;
}

/** Packs the whole tiles of trits: a word of the source is 4 adjacent columns. */
function packTrits(out: Int32Array, source: Int32Array, firstRow: number, rows: number, cols: number): void {
  const tiles = Math.floor(cols / TILE_COLUMNS);
  const colTiles = columnTiles(cols);
  const codes = (word: number) => ((word & 0x03030303) + 0x01010101) & 0x03030303;
  for (let r = 0; r < rows; r++) {
    const row = firstRow + r;
    let from = (r * cols) >> 2;
    let to = (row >> 4) * colTiles * TILE_ROWS + (row & 15);
    for (let t = 0; t < tiles; t++) {
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
}

/** Packs the whole tiles of Hugging Face's packing: there, field i of a word is 4 columns of row r + i quarter. */
function transcode(
  out: Int32Array,
  source: Int32Array,
  firstRow: number,
  quarter: number,
  cols: number,
): void {
  const tiles = Math.floor(cols / TILE_COLUMNS);
  const rowWords = columnTiles(cols) * TILE_ROWS;
  for (let r = 0; r < quarter; r++) {
    for (let field = 0; field < 4; field++) {
      const row = firstRow + r + field * quarter;
      const by = 2 * field;
      const codes = (word: number) => (word >>> by) & 0x03030303;
      let from = (r * cols) >> 2;
      let to = (row >> 4) * rowWords + (row & 15);
      for (let t = 0; t < tiles; t++) {
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
  }
}

const PACKING = { tileColumns: TILE_COLUMNS, plain: packPlain, trits: packTrits, transcode };

export function packT5b(weight: TernaryWeight): Uint8Array {
  const out = new Uint8Array(t5bBytes(weight.rows, weight.cols)).fill(ZERO_TRITS);
  return packTernary(out, weight, PACKING);
}

/** The plain reading of the layout: trits, [rows, cols]. */
export function unpackT5b(bytes: Uint8Array, rows: number, cols: number): Int8Array {
  const colTiles = columnTiles(cols);
  const trits = new Int8Array(rows * cols);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) {
      const { byte, weight } = position(r, c, colTiles);
      trits[r * cols + c] = (Math.floor(bytes[byte]! / weight) % 3) - 1;
    }
  }
  return trits;
}
