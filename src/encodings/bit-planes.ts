/**
 * `bit-planes`: codes of 1, 2, 3 or 4 bits for kernels that look up 4 columns of one bit at a time, with rows in lanes.
 *
 * Rows and columns are padded to multiples of 64 with code 0. A tile is 64 rows; along it lie spans of 32 columns,
 * in a span one plane of bits after the other, the lowest first, in a plane 4 lines of 64 bytes, one for 8 columns:
 *
 * ```
 * | plane 0: columns 0-7 | 8-15 | 16-23 | 24-31 | plane 1: columns 0-7 | ... |      256 bytes a plane
 *
 * a byte of a line, of one row      bits 7  6  5  4  3  2  1  0
 *                                column  7  6  5  4  3  2  1  0
 *
 * a line: 4 x 16 rows, of each the rows 0 8 1 9 2 10 ... 7 15
 * ```
 *
 * so that either half of the bytes of a line indexes one table of 16 sums for all its rows, and sums of bytes seen as
 * 16-bit words are, low half and high half, sums of 8 adjacent rows.
 */
import { alignUp } from '../common/math.ts';
import type { CodeBits } from '../graph/ir.ts';
import type { CodesWeight } from '../models/weights.ts';

const PAD = 64;
const LINE_BYTES = 64;
const SPAN = 32;
const SPAN_LINES = 4;

/** Widths of codes that are looked up. */
export const PLANE_BITS: readonly CodeBits[] = [1, 2, 3, 4];

/** Bytes of an encoded matrix. */
export function bitPlanesBytes(bits: CodeBits, rows: number, cols: number): number {
  return (alignUp(rows, PAD) * alignUp(cols, PAD) * bits) / 8;
}

/** The byte of 8 columns from `col` on, of plane 0; the next plane's lies 256 bytes further. */
function position(row: number, col: number, cols: number, bits: number): number {
  const span = Math.floor(row / PAD) * (alignUp(cols, PAD) / SPAN) + Math.floor(col / SPAN);
  const line = span * bits * SPAN_LINES + ((col % SPAN) >> 3);
  return line * LINE_BYTES + (row & 48) + 2 * (row & 7) + ((row >> 3) & 1);
}

/** Bits `plane` of 4 codes, a byte each, as a nibble: the product moves them to bits 24 to 27. */
function nibble(codes: number, plane: number): number {
  return (Math.imul((codes >>> plane) & 0x01010101, 0x01020408) >>> 24) & 15;
}

export function packBitPlanes({ bits, rows, cols, blocks }: CodesWeight): Uint8Array {
  const out = new Uint8Array(bitPlanesBytes(bits, rows, cols));
  const padded = new Uint8Array(alignUp(cols, 8));
  const words = new Uint32Array(padded.buffer);
  let row = 0;
  for (const block of blocks) {
    for (let r = 0; r < block.rows; r++, row++) {
      padded.set(block.codes.subarray(r * cols, (r + 1) * cols));
      for (let col = 0; col < cols; col += 8) {
        const at = position(row, col, cols, bits);
        const [low, high] = [words[col >> 2]!, words[(col >> 2) + 1]!];
        for (let plane = 0; plane < bits; plane++) {
          out[at + plane * SPAN_LINES * LINE_BYTES] = nibble(low, plane) | (nibble(high, plane) << 4);
        }
      }
    }
  }
  return out;
}

/** The plain reading of the layout: codes, [rows, cols]. */
export function unpackBitPlanes(bytes: Uint8Array, bits: CodeBits, rows: number, cols: number): Uint8Array {
  const codes = new Uint8Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const at = position(row, col, cols, bits);
      for (let plane = 0; plane < bits; plane++) {
        const bit = (bytes[at + plane * SPAN_LINES * LINE_BYTES]! >> (col & 7)) & 1;
        codes[row * cols + col]! |= bit << plane;
      }
    }
  }
  return codes;
}
