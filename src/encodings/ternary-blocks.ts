/** What encodings of ternary weights share: going through the blocks of a weight, quickly where words line up. */
import { type TernaryRows, tritsOf } from '../models/ternary.ts';
import type { CodesWeight, TernaryWeight } from '../models/weights.ts';

/** How one encoding packs rows. All write from row `firstRow` of the output on. */
export interface TernaryPacking {
  /** Columns of a tile: what the quick ways pack is a multiple of it. */
  readonly tileColumns: number;
  /** Columns `from` to `cols` of every row, one element at a time. */
  plain(out: Uint8Array, trits: Int8Array, firstRow: number, rows: number, cols: number, from: number): void;
  /** The whole tiles of trits, as words. */
  trits(out: Int32Array, source: Int32Array, firstRow: number, rows: number, cols: number): void;
  /** The whole tiles of Hugging Face's packing: there, field i of a word is 4 columns of row r + i quarter. */
  transcode(out: Int32Array, source: Int32Array, firstRow: number, quarter: number, cols: number): void;
}

const viewWords = (bytes: Uint8Array | Int8Array) =>
  new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);

function packBlock(
  out: Uint8Array,
  block: TernaryRows,
  firstRow: number,
  cols: number,
  packing: TernaryPacking,
): void {
  const data = block.form === 'packed' ? block.bytes : block.trits;
  // Rows start at whole words, which hosts (all little endian) read as 4 columns.
  const fast = cols % 4 === 0 && data.byteOffset % 4 === 0;
  if (fast) {
    const [words, source] = [viewWords(out), viewWords(data)];
    if (block.form === 'packed') packing.transcode(words, source, firstRow, block.rows / 4, cols);
    else packing.trits(words, source, firstRow, block.rows, cols);
  }
  const done = fast ? cols - (cols % packing.tileColumns) : 0;
  if (done < cols) packing.plain(out, tritsOf(block), firstRow, block.rows, cols, done);
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

/** Packs all blocks of a weight into `out`, which has the encoding's trits 0 everywhere. */
export function packTernary(
  out: Uint8Array,
  { cols, blocks }: TernaryWeight,
  packing: TernaryPacking,
): Uint8Array {
  let firstRow = 0;
  for (const block of blocks) {
    packBlock(out, block, firstRow, cols, packing);
    firstRow += block.rows;
  }
  return out;
}
