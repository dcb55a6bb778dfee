/**
 * What encodings of ternary weights share. Rows are padded to a multiple of 64 and columns to one of 64 and of a tile's,
 * both with trit 0, and stored in tiles of 16 rows and 64 bytes, [row tile][column tile]. In a tile, byte 4r + j has the
 * codes t + 1 of row r in columns j, 4 + j, 8 + j, ..., as digits of a number.
 */
import { alignUp } from '../common/math.ts';
import { type TernaryRows, tritsOf } from '../models/ternary.ts';
import type { CodesWeight, TernaryWeight } from '../models/weights.ts';

const PAD = 64;
export const TILE_ROWS = 16;
const TILE_BYTES = 64;

/** One such encoding. Its quick ways to pack write from row `firstRow` of the output on. */
export interface TernaryTiles {
  /** Columns of a tile: four for each digit. */
  readonly tileColumns: number;
  /** What the digits of a byte count, in the order of their columns, */
  readonly weights: readonly number[];
  /** to this base. */
  readonly base: 3 | 4;
  /** Packs the whole tiles of trits, as words: a word of the source is 4 adjacent columns. */
  trits(out: Int32Array, source: Int32Array, firstRow: number, rows: number, cols: number): void;
  /** The whole tiles of Hugging Face's packing: there, field i of a word is 4 columns of row r + i quarter. */
  transcode(out: Int32Array, source: Int32Array, firstRow: number, quarter: number, cols: number): void;
}

const columnTiles = (cols: number, { tileColumns }: TernaryTiles) =>
  Math.ceil(alignUp(cols, PAD) / tileColumns);

/** Words of 4 bytes from one row of tiles to the next. */
export function tileRowWords(cols: number, tiles: TernaryTiles): number {
  return (columnTiles(cols, tiles) * TILE_BYTES) / 4;
}

/** Bytes of an encoded matrix. */
export function ternaryBytes(rows: number, cols: number, tiles: TernaryTiles): number {
  return (alignUp(rows, PAD) / TILE_ROWS) * columnTiles(cols, tiles) * TILE_BYTES;
}

/** Where the code of one element lies: its byte, and what the code counts there. */
function position(row: number, col: number, rowTiles: number, { tileColumns, weights }: TernaryTiles) {
  const tile = (row >> 4) * rowTiles + Math.floor(col / tileColumns);
  const within = col % tileColumns;
  return { byte: tile * TILE_BYTES + 4 * (row & 15) + (within & 3), weight: weights[within >> 2]! };
}

/** Packs columns `from` to `cols` of every row, one element at a time, over trits 0. */
function packPlain(
  out: Uint8Array,
  trits: Int8Array,
  firstRow: number,
  rows: number,
  cols: number,
  from: number,
  tiles: TernaryTiles,
): void {
  const rowTiles = columnTiles(cols, tiles);
  for (let r = 0; r < rows; r++) {
    for (let c = from; c < cols; c++) {
      const { byte, weight } = position(firstRow + r, c, rowTiles, tiles);
      out[byte] = out[byte]! + weight * trits[r * cols + c]!;
    }
  }
}

/** The plain reading of the layout: trits, [rows, cols]. */
export function unpackTernary(bytes: Uint8Array, rows: number, cols: number, tiles: TernaryTiles): Int8Array {
  const rowTiles = columnTiles(cols, tiles);
  const trits = new Int8Array(rows * cols);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) {
      const { byte, weight } = position(r, c, rowTiles, tiles);
      trits[r * cols + c] = (Math.floor(bytes[byte]! / weight) % tiles.base) - 1;
    }
  }
  return trits;
}

const viewWords = (bytes: Uint8Array | Int8Array) =>
  new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);

function packBlock(
  out: Uint8Array,
  block: TernaryRows,
  firstRow: number,
  cols: number,
  tiles: TernaryTiles,
): void {
  const data = block.form === 'packed' ? block.bytes : block.trits;
  // Rows start at whole words, which hosts (all little endian) read as 4 columns.
  const fast = cols % 4 === 0 && data.byteOffset % 4 === 0;
  if (fast) {
    const [words, source] = [viewWords(out), viewWords(data)];
    if (block.form === 'packed') tiles.transcode(words, source, firstRow, block.rows / 4, cols);
    else tiles.trits(words, source, firstRow, block.rows, cols);
  }
  const done = fast ? cols - (cols % tiles.tileColumns) : 0;
  if (done < cols) packPlain(out, tritsOf(block), firstRow, block.rows, cols, done, tiles);
}

/** Trits as codes t + 1 of 2 bits. */
export function ternaryCodes({ rows, cols, blocks }: TernaryWeight): CodesWeight {
  const coded = blocks.map((block) => {
    const trits = tritsOf(block);
    const codes = new Uint8Array(trits.length);
    for (let i = 0; i < codes.length; i++) codes[i] = trits[i]! + 1;
    return { rows: block.rows, codes };
  });
  return { kind: 'codes', bits: 2, rows, cols, blocks: coded };
}

/** Packs all blocks of a weight. */
export function packTernary({ rows, cols, blocks }: TernaryWeight, tiles: TernaryTiles): Uint8Array {
  const zeroTrits = tiles.weights.reduce((sum, weight) => sum + weight, 0);
  const out = new Uint8Array(ternaryBytes(rows, cols, tiles)).fill(zeroTrits);
  let firstRow = 0;
  for (const block of blocks) {
    packBlock(out, block, firstRow, cols, tiles);
    firstRow += block.rows;
  }
  return out;
}
