/**
 * Tables of 4 or 6 bits a weight, with a scale for every `group` (32 or 64) columns of a row: `int4-g64`, ...
 * A weight is scale * (code - zero), zero = 8 or 32; scales are bf16 and may be negative, so that the larger end
 * of the codes, -zero, serves whichever sign the largest weight has.
 *
 * Rows are padded to a multiple of 16, columns to one of 64, both with scales of 0 or codes of zero. A block is
 * 16 rows x one group; the blocks of 16 rows lie one after the other:
 *
 * ```
 * block   = the codes, then 16 scales
 * 4 bits: 8 columns are 64 bytes; byte 4 r + j is of row r
 *   bits 0-3: column j      bits 4-7: column 4 + j
 * 6 bits: 16 columns are 3 x 64 bytes; byte 4 r + j of part v is of row r
 *   bits 0-5: column 4 v + j      bits 6-7: bits 2v and 2v+1 of column 12 + j
 * ```
 * So rows are lanes of four bytes, whatever the width of a vector, and all is read as one stream.
 */
import { bf16ToF32, f32ToBf16 } from '../common/halves.ts';
import { alignUp } from '../common/math.ts';
import type { StoredFloats } from '../models/tensors.ts';
import { ROUND, readRow } from './stored-rows.ts';

export interface GroupedFormat {
  readonly bits: 4 | 6;
  /** Columns that share a scale. */
  readonly group: 32 | 64;
}

/** Rows of a block. */
export const BLOCK_ROWS = 16;
const PAD = 64;

/** Largest code + 1 is twice this. */
export function zeroCode({ bits }: GroupedFormat): number {
  return 2 ** (bits - 1);
}

/** Bytes of the codes of a block; 32 bytes of scales follow them. */
export function blockCodeBytes({ bits, group }: GroupedFormat): number {
  return (BLOCK_ROWS * group * bits) / 8;
}

export function blockBytes(format: GroupedFormat): number {
  return blockCodeBytes(format) + BLOCK_ROWS * 2;
}

export function groupedRowsBytes(format: GroupedFormat, rows: number, cols: number): number {
  const blocks = (alignUp(rows, BLOCK_ROWS) / BLOCK_ROWS) * (alignUp(cols, PAD) / format.group);
  return blocks * blockBytes(format);
}

/**
 * Divisors of the largest weight that give scales to try. With `zero` the largest weight is met exactly; smaller
 * ones make room, larger ones cut it off for the sake of all others.
 */
const DIVISORS = { 4: [7, 7.5, 8, 8.5, 9, 9.5], 6: [31.5, 32, 33, 34] };

/** A smaller largest weight would have a scale that is subnormal: the group is zero. */
const SMALLEST = 2 ** -110;

/** Finds the scale of a group, for the least squared error, and writes the group's codes less `zero`. */
class GroupQuantizer {
  readonly #zero: number;
  readonly #divisors: readonly number[];
  /** What the codes stand for is `codes[i] * scale`. */
  readonly codes: Float64Array;
  scale = 0;
  readonly #values: Float64Array;

  constructor({ bits, group }: GroupedFormat) {
    this.#zero = 2 ** (bits - 1);
    this.#divisors = DIVISORS[bits];
    this.codes = new Float64Array(group);
    this.#values = new Float64Array(group);
  }

  /** The values of a group, from index `from` of a row on; missing ones are 0. */
  quantize(row: Float32Array, from: number): void {
    const values = this.#values;
    let largest = 0;
    for (let i = 0; i < values.length; i++) {
      const value = row[from + i] ?? 0;
      values[i] = value;
      if (Math.abs(value) > Math.abs(largest)) largest = value;
    }
    this.scale = 0;
    if (Math.abs(largest) < SMALLEST) {
      this.codes.fill(0);
      return;
    }
    let least = Number.POSITIVE_INFINITY;
    for (const divisor of this.#divisors) {
      const scale = roundScale(-largest / divisor);
      const error = this.#error(scale);
      if (error < least) [least, this.scale] = [error, scale];
    }
    const refined = this.#fit();
    if (this.#error(refined) < least) this.scale = refined;
    this.#encode(this.scale);
  }

  #error(scale: number): number {
    const { length } = this.#values;
    const inverse = 1 / scale;
    const [low, high] = [-this.#zero, this.#zero - 1];
    let sum = 0;
    for (let i = 0; i < length; i++) {
      const value = this.#values[i]!;
      let code = value * inverse + ROUND - ROUND;
      if (code > high) code = high;
      else if (code < low) code = low;
      const off = value - code * scale;
      sum += off * off;
    }
    return sum;
  }

  /** The scale that fits best to the codes that the scale so far gives (least squares). */
  #fit(): number {
    this.#encode(this.scale);
    let products = 0;
    let squares = 0;
    for (let i = 0; i < this.codes.length; i++) {
      const code = this.codes[i]!;
      products += code * this.#values[i]!;
      squares += code * code;
    }
    return roundScale(products / squares);
  }

  #encode(scale: number): void {
    const inverse = 1 / scale;
    for (let i = 0; i < this.codes.length; i++) {
      const code = this.#values[i]! * inverse + ROUND - ROUND;
      this.codes[i] = Math.min(Math.max(code, -this.#zero), this.#zero - 1);
    }
  }
}

const roundScale = (scale: number): number => bf16ToF32(f32ToBf16(scale));

/** Writes the codes of row `r` of a block. */
function putCodes(
  out: Uint8Array,
  block: number,
  r: number,
  codes: Float64Array,
  format: GroupedFormat,
): void {
  const zero = zeroCode(format);
  if (format.bits === 4) {
    for (let at = 0; at < codes.length; at += 8) {
      const to = block + at * 8 + 4 * r;
      for (let j = 0; j < 4; j++) {
        out[to + j] = (codes[at + j]! + zero) | ((codes[at + 4 + j]! + zero) << 4);
      }
    }
    return;
  }
  for (let at = 0; at < codes.length; at += 16) {
    const to = block + at * 12 + 4 * r;
    for (let v = 0; v < 3; v++) {
      for (let j = 0; j < 4; j++) {
        const top = ((codes[at + 12 + j]! + zero) >> (2 * v)) & 3;
        out[to + 64 * v + j] = (codes[at + 4 * v + j]! + zero) | (top << 6);
      }
    }
  }
}

/** What is known of how a packed row differs from the stored one, Euclidean norms. */
export interface RowNorms {
  /** Of the difference. */
  readonly error: Float64Array;
  /** Of the packed row. */
  readonly packed: Float64Array;
  /** Of the stored row. */
  readonly stored: Float64Array;
}

/** Packs a table, [rows, cols]; every scale has the least squared error of those tried. */
export function packGroupedRows(
  stored: StoredFloats,
  rows: number,
  cols: number,
  format: GroupedFormat,
): { readonly table: Uint8Array; readonly norms: RowNorms } {
  const table = new Uint8Array(groupedRowsBytes(format, rows, cols));
  const words = new Uint16Array(table.buffer);
  const quantizer = new GroupQuantizer(format);
  const groups = alignUp(cols, PAD) / format.group;
  const norms = {
    error: new Float64Array(rows),
    packed: new Float64Array(rows),
    stored: new Float64Array(rows),
  };
  quantizer.codes.fill(0);
  for (let r = rows; r < alignUp(rows, BLOCK_ROWS); r++) {
    for (let g = 0; g < groups; g++) {
      const block = (Math.floor(r / BLOCK_ROWS) * groups + g) * blockBytes(format);
      putCodes(table, block, r % BLOCK_ROWS, quantizer.codes, format);
    }
  }
  for (let r = 0; r < rows; r++) {
    const row = readRow(stored, r, cols);
    const first = Math.floor(r / BLOCK_ROWS) * groups * blockBytes(format);
    for (let g = 0; g < groups; g++) {
      quantizer.quantize(row, g * format.group);
      const block = first + g * blockBytes(format);
      putCodes(table, block, r % BLOCK_ROWS, quantizer.codes, format);
      words[(block + blockCodeBytes(format)) / 2 + (r % BLOCK_ROWS)] = f32ToBf16(quantizer.scale);
      for (let i = 0; i < format.group; i++) {
        const value = row[g * format.group + i] ?? 0;
        const packed = quantizer.codes[i]! * quantizer.scale;
        norms.error[r]! += (value - packed) ** 2;
        norms.packed[r]! += packed ** 2;
        norms.stored[r]! += value ** 2;
      }
    }
    norms.error[r] = Math.sqrt(norms.error[r]!);
    norms.packed[r] = Math.sqrt(norms.packed[r]!);
    norms.stored[r] = Math.sqrt(norms.stored[r]!);
  }
  return { table, norms };
}

/** The values a packed table stands for, [rows, cols]. */
export function unpackGroupedRows(
  table: Uint8Array,
  rows: number,
  cols: number,
  format: GroupedFormat,
): Float32Array {
  const groups = alignUp(cols, PAD) / format.group;
  const zero = zeroCode(format);
  return Float32Array.from({ length: rows * cols }, (_, i) => {
    const [r, c] = [Math.floor(i / cols), i % cols];
    const inGroup = c % format.group;
    const block = (Math.floor(r / BLOCK_ROWS) * groups + Math.floor(c / format.group)) * blockBytes(format);
    const inBlock = r % BLOCK_ROWS;
    const scaleAt = block + blockCodeBytes(format) + 2 * inBlock;
    const scale = bf16ToF32(table[scaleAt]! | (table[scaleAt + 1]! << 8));
    return (codeAt(table, block, inBlock, inGroup, format.bits) - zero) * scale;
  });
}

function codeAt(table: Uint8Array, block: number, r: number, column: number, bits: 4 | 6): number {
  const lane = 4 * r + (column % 4);
  if (bits === 4) return (table[block + Math.floor(column / 8) * 64 + lane]! >> (column & 4)) & 15;
  const step = block + Math.floor(column / 16) * 192 + lane;
  const field = Math.floor((column % 16) / 4);
  if (field < 3) return table[step + 64 * field]! & 63;
  return [0, 1, 2].reduce((code, v) => code | ((table[step + 64 * v]! >> 6) << (2 * v)), 0);
}
