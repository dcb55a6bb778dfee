/**
 * `code-tiles`: codes of 1, 2, 3, 4, 6 or 8 bits for kernels that keep rows in lanes; and `group-lanes`: their scales
 * and zeros in the same order.
 *
 * Rows and columns are padded to multiples of 64 with code 0. A row of tiles is 16 rows; along it lie tiles of 64
 * bytes, four bytes a row, which are 32, 16, 8 or 4 columns of 1, 2, 4 or 8 bits. In a tile, byte 4r + j has the
 * columns of row r with k % 4 = j, a field of bits each, the lowest first:
 *
 * ```
 * 2 bits   76   54   32   10        4 bits   7654  3210        1 bit      7    6   ...  1   0
 * column  12+j  8+j  4+j   j        column    4+j    j         column    28+j 24+j ... 4+j  j
 * ```
 *
 * so that one field of the 64 bytes is the codes of 16 rows by 4 adjacent columns. Three bits are two tiles of the
 * low two bits of 32 columns, then a tile of the high bits of the same columns:
 *
 * ```
 * | low 2 bits of columns 0-15 | of columns 16-31 | high bits of columns 0-31 |     192 bytes
 * ```
 *
 * and six bits two tiles of the low four bits of 16 columns, then a tile of the high two.
 *
 * `group-lanes` is [row tile][group][16 rows] of f16, f32, u8 or i8, rows padded to a multiple of 64 with zeros; of
 * u4, a byte has two adjacent groups of a row, the first in its lower half.
 */
import { alignUp } from '../common/math.ts';
import type { CodeBits } from '../graph/ir.ts';
import type { CodesWeight } from '../models/weights.ts';

const PAD = 64;
const TILE_ROWS = 16;
const TILE_BYTES = 64;

/** Fields of one width in a code: its lowest bit, and where the tiles are in the columns it covers together. */
interface Plane {
  readonly bits: 1 | 2 | 4 | 8;
  readonly lowest: number;
  /** First tile of the plane among those of `span` columns. */
  readonly first: number;
}

interface Layout {
  readonly planes: readonly Plane[];
  /** Columns that lie together. */
  readonly span: number;
  /** Bytes of 16 rows of them. */
  readonly spanBytes: number;
}

const LAYOUTS: Readonly<Record<CodeBits, Layout>> = {
  1: { planes: [{ bits: 1, lowest: 0, first: 0 }], span: 32, spanBytes: TILE_BYTES },
  2: { planes: [{ bits: 2, lowest: 0, first: 0 }], span: 16, spanBytes: TILE_BYTES },
  3: {
    planes: [
      { bits: 2, lowest: 0, first: 0 },
      { bits: 1, lowest: 2, first: 2 },
    ],
    span: 32,
    spanBytes: 3 * TILE_BYTES,
  },
  4: { planes: [{ bits: 4, lowest: 0, first: 0 }], span: 8, spanBytes: TILE_BYTES },
  6: {
    planes: [
      { bits: 4, lowest: 0, first: 0 },
      { bits: 2, lowest: 4, first: 2 },
    ],
    span: 16,
    spanBytes: 3 * TILE_BYTES,
  },
  8: { planes: [{ bits: 8, lowest: 0, first: 0 }], span: 4, spanBytes: TILE_BYTES },
};

/** Bytes of an encoded matrix. */
export function codeTilesBytes(bits: CodeBits, rows: number, cols: number): number {
  return (alignUp(rows, PAD) * alignUp(cols, PAD) * bits) / 8;
}

/** Where one plane of the code of one element lies: its byte, and the lowest bit in it. */
function position(
  { span, spanBytes }: Layout,
  { bits, first }: Plane,
  row: number,
  col: number,
  cols: number,
) {
  const tileColumns = 32 / bits;
  const inSpan = col % span;
  const tile = first + Math.floor(inSpan / tileColumns);
  const start = (row >> 4) * (alignUp(cols, PAD) / span) * spanBytes + Math.floor(col / span) * spanBytes;
  return {
    byte: start + tile * TILE_BYTES + 4 * (row & 15) + (col & 3),
    shift: bits * ((inSpan % tileColumns) >> 2),
  };
}

/** Packs columns `from` to `cols` of rows of codes, one element at a time. */
function packPlain(
  out: Uint8Array,
  { rows, codes }: CodesWeight['blocks'][number],
  bits: CodeBits,
  firstRow: number,
  cols: number,
  from: number,
): void {
  const layout = LAYOUTS[bits];
  for (let r = 0; r < rows; r++) {
    for (let c = from; c < cols; c++) {
      for (const plane of layout.planes) {
        const { byte, shift } = position(layout, plane, firstRow + r, c, cols);
        const field = (codes[r * cols + c]! >> plane.lowest) & (2 ** plane.bits - 1);
        out[byte] = out[byte]! | (field << shift);
      }
    }
  }
}

/** Packs whole spans of columns: a word of the source is 4 adjacent columns, and so is a field of one of the output. */
function packWords(
  out: Uint32Array,
  source: Uint32Array,
  { planes, span, spanBytes }: Layout,
  rows: number,
  firstRow: number,
  cols: number,
): void {
  const spans = Math.floor(cols / span);
  const rowWords = ((alignUp(cols, PAD) / span) * spanBytes) / 4;
  for (const { bits, lowest, first } of planes) {
    const fields = 8 / bits;
    const mask = (2 ** bits - 1) * 0x01010101;
    for (let r = 0; r < rows; r++) {
      const row = firstRow + r;
      const start = (row >> 4) * rowWords + first * (TILE_BYTES / 4) + (row & 15);
      for (let s = 0; s < spans; s++) {
        let from = (r * cols + s * span) >> 2;
        let to = start + s * (spanBytes >> 2);
        for (let c = 0; c < span; c += 4 * fields) {
          let word = 0;
          for (let f = 0; f < fields; f++) word |= ((source[from + f]! >>> lowest) & mask) << (bits * f);
          out[to] = word;
          from += fields;
          to += TILE_BYTES / 4;
        }
      }
    }
  }
}

export function packCodeTiles({ bits, rows, cols, blocks }: CodesWeight): Uint8Array {
  const out = new Uint8Array(codeTilesBytes(bits, rows, cols));
  const layout = LAYOUTS[bits];
  let firstRow = 0;
  for (const block of blocks) {
    const { codes } = block;
    // Rows start at whole words, which hosts (all little endian) read as 4 columns.
    const fast = cols % 4 === 0 && codes.byteOffset % 4 === 0;
    if (fast) {
      const source = new Uint32Array(codes.buffer, codes.byteOffset, codes.length >> 2);
      packWords(new Uint32Array(out.buffer), source, layout, block.rows, firstRow, cols);
    }
    packPlain(out, block, bits, firstRow, cols, fast ? cols - (cols % layout.span) : 0);
    firstRow += block.rows;
  }
  return out;
}

/** The plain reading of the layout: codes, [rows, cols]. */
export function unpackCodeTiles(bytes: Uint8Array, bits: CodeBits, rows: number, cols: number): Uint8Array {
  const layout = LAYOUTS[bits];
  const codes = new Uint8Array(rows * cols);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) {
      for (const plane of layout.planes) {
        const { byte, shift } = position(layout, plane, r, c, cols);
        codes[r * cols + c]! |= ((bytes[byte]! >> shift) & (2 ** plane.bits - 1)) << plane.lowest;
      }
    }
  }
  return codes;
}

type Lanes = Uint8Array | Int8Array | Uint16Array | Float32Array;

/** Elements of `group-lanes` for a matrix [rows, groups]. */
export function groupLanesLength(rows: number, groups: number): number {
  return alignUp(rows, PAD) * groups;
}

function lane(row: number, group: number, groups: number): number {
  return ((row >> 4) * groups + group) * TILE_ROWS + (row & 15);
}

/** Moves values [rows, groups] to their lanes; `out` has `groupLanesLength` elements, zeros. */
export function packGroupLanes<T extends Lanes>(values: T, rows: number, groups: number, out: T): T {
  for (let r = 0; r < rows; r++) {
    for (let g = 0; g < groups; g++) out[lane(r, g, groups)] = values[r * groups + g]!;
  }
  return out;
}

/** Moves values from their lanes to `out`, [rows, groups]. */
export function unpackGroupLanes<T extends Lanes>(lanes: T, rows: number, groups: number, out: T): T {
  for (let r = 0; r < rows; r++) {
    for (let g = 0; g < groups; g++) out[r * groups + g] = lanes[lane(r, g, groups)]!;
  }
  return out;
}

/** Values of 4 bits, [rows, groups], two adjacent groups a byte, the first in its lower half. */
export function packNibbleLanes(values: Uint8Array, rows: number, groups: number): Uint8Array {
  const pairs = Math.ceil(groups / 2);
  const out = new Uint8Array(groupLanesLength(rows, pairs));
  for (let r = 0; r < rows; r++) {
    for (let g = 0; g < groups; g++) out[lane(r, g >> 1, pairs)]! |= values[r * groups + g]! << (4 * (g & 1));
  }
  return out;
}

export function unpackNibbleLanes(lanes: Uint8Array, rows: number, groups: number): Uint8Array {
  const pairs = Math.ceil(groups / 2);
  const out = new Uint8Array(rows * groups);
  for (let r = 0; r < rows; r++) {
    for (let g = 0; g < groups; g++)
      out[r * groups + g] = (lanes[lane(r, g >> 1, pairs)]! >> (4 * (g & 1))) & 15;
  }
  return out;
}
