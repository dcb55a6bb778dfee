/**
 * The lookup-table layouts of bitnet.cpp, TL1 (for ARM) and TL2 (for x86). They depend on tiles chosen per
 * shape when bitnet.cpp's kernels were generated, which files do not name: lutra knows the presets that come
 * with it.
 */
import { LutraError } from '../../common/errors.ts';

/** Rows and columns of a tile, and for TL1 the rows of a block within it. */
interface Tiling {
  readonly rows: number;
  readonly cols: number;
  readonly block: number;
}

/** By `rows x columns` of the matrix: bitnet_b1_58-large, bitnet_b1_58-3B, Llama3-8B-1.58. */
const TL1_TILES: ReadonlyMap<string, Tiling> = new Map([
  ['1536x4096', { rows: 256, cols: 128, block: 32 }],
  ['1536x1536', { rows: 128, cols: 64, block: 64 }],
  ['4096x1536', { rows: 256, cols: 128, block: 32 }],
  ['3200x8640', { rows: 160, cols: 64, block: 32 }],
  ['3200x3200', { rows: 320, cols: 128, block: 64 }],
  ['8640x3200', { rows: 320, cols: 64, block: 32 }],
  ['14336x4096', { rows: 256, cols: 128, block: 32 }],
  ['4096x14336', { rows: 256, cols: 128, block: 32 }],
  ['1024x4096', { rows: 256, cols: 128, block: 32 }],
  ['4096x4096', { rows: 128, cols: 64, block: 64 }],
]);

const TL2_TILES: ReadonlyMap<string, Tiling> = new Map([
  ['1536x4096', { rows: 256, cols: 96, block: 32 }],
  ['1536x1536', { rows: 128, cols: 192, block: 32 }],
  ['4096x1536', { rows: 256, cols: 96, block: 32 }],
  ['3200x8640', { rows: 160, cols: 96, block: 32 }],
  ['3200x3200', { rows: 320, cols: 96, block: 32 }],
  ['8640x3200', { rows: 320, cols: 96, block: 32 }],
  ['14336x4096', { rows: 256, cols: 96, block: 32 }],
  ['4096x14336', { rows: 128, cols: 96, block: 32 }],
  ['1024x4096', { rows: 256, cols: 96, block: 32 }],
  ['4096x4096', { rows: 128, cols: 96, block: 32 }],
]);

function tilingOf(
  tiles: ReadonlyMap<string, Tiling>,
  type: string,
  rows: number,
  cols: number,
  tensor: string,
): Tiling {
  const tiling = tiles.get(`${rows}x${cols}`);
  if (tiling !== undefined) return tiling;
  throw new LutraError(
    'unsupported',
    `tensor ${tensor}: the tiles of ${type} for ${rows} x ${cols} are not known`,
    {
      hint: `bitnet.cpp has presets for ${[...tiles.keys()].join(', ')}. Get the model as I2_S, TQ1_0 or safetensors.`,
    },
  );
}

function invalid(tensor: string, what: string): LutraError {
  return new LutraError('invalid', `tensor ${tensor} ${what}`, {
    hint: 'The file is damaged, or was made for tiles other than the presets of bitnet.cpp.',
  });
}

/**
 * TL1: a byte is four adjacent columns of a row, high nibble first; a nibble is 3 w0 + w1 + 4. Bytes by
 * tiles of rows, tiles of columns, blocks of rows, `256/block` columns, 16 rows, 4 columns, row.
 * @returns trits, row-major
 */
export function decodeTl1(bytes: Uint8Array, rows: number, cols: number, tensor: string): Int8Array {
  const tile = tilingOf(TL1_TILES, 'TL1', rows, cols, tensor);
  const trits = new Int8Array(rows * cols);
  const by = 256 / tile.block;
  let at = 0;
  for (let r0 = 0; r0 < rows; r0 += tile.rows) {
    for (let k0 = 0; k0 < cols; k0 += tile.cols) {
      for (let r1 = r0; r1 < r0 + tile.rows; r1 += tile.block) {
        for (let k1 = k0; k1 < k0 + tile.cols; k1 += by) {
          for (let r2 = r1; r2 < r1 + tile.block; r2 += 16) {
            for (let k = k1; k < k1 + by; k += 4) {
              for (let row = r2; row < r2 + 16; row++) putPairs(trits, row * cols + k, bytes[at++]!, tensor);
            }
          }
        }
      }
    }
  }
  return trits;
}

/** Two pairs of trits, each 3 w0 + w1 + 4. */
function putPairs(trits: Int8Array, to: number, byte: number, tensor: string): void {
  const [high, low] = [byte >> 4, byte & 15];
  if (high > 8 || low > 8) throw invalid(tensor, `has the pair code ${Math.max(high, low)}, of at most 8`);
  trits[to] = Math.floor(high / 3) - 1;
  trits[to + 1] = (high % 3) - 1;
  trits[to + 2] = Math.floor(low / 3) - 1;
  trits[to + 3] = (low % 3) - 1;
}

/** Bytes of 32 rows come as rows 0-7, 16-23, 8-15, 24-31: x86 unpacks halves of its registers. */
const rowOfByte = (p: number) => (p & ~24) | ((p & 8) << 1) | ((p & 16) >> 1);

/**
 * TL2: three trits are 9 a + 3 b + c, its magnitude in 4 bits and its sign apart. Columns beyond the last
 * whole tile are pairs, as in TL1.
 *
 * ```
 * magnitudes   by tiles of rows, tiles of columns, 32 rows, 6 columns, row: first three in the high nibble
 * signs        by tiles of rows, tiles of columns, 32 rows, 24 columns: 16 words of 16 bits, word row % 16,
 *              bit 15 - (2 three + row / 16)
 * pairs        by tiles of rows, 32 columns, 32 rows, 4 columns, row
 * ```
 *
 * @returns trits, row-major
 */
export function decodeTl2(bytes: Uint8Array, rows: number, cols: number, tensor: string): Int8Array {
  const tile = tilingOf(TL2_TILES, 'TL2', rows, cols, tensor);
  const trits = new Int8Array(rows * cols);
  const threes = cols - (cols % tile.cols);
  let at = 0;
  let signs = (rows * threes) / 6;
  for (let r0 = 0; r0 < rows; r0 += tile.rows) {
    for (let k0 = 0; k0 < threes; k0 += tile.cols) {
      for (let r1 = r0; r1 < r0 + tile.rows; r1 += 32) {
        for (let k1 = k0; k1 < k0 + tile.cols; k1 += 24) {
          putThrees(
            trits,
            cols,
            r1,
            k1,
            bytes.subarray(at, at + 128),
            bytes.subarray(signs, signs + 32),
            tensor,
          );
          at += 128;
          signs += 32;
        }
      }
    }
  }
  at = signs;
  for (let r0 = 0; r0 < rows; r0 += tile.rows) {
    for (let k0 = threes; k0 < cols; k0 += 32) {
      for (let r1 = r0; r1 < r0 + tile.rows; r1 += 32) {
        for (let k = k0; k < k0 + 32; k += 4) {
          for (let p = 0; p < 32; p++) putPairs(trits, (r1 + rowOfByte(p)) * cols + k, bytes[at++]!, tensor);
        }
      }
    }
  }
  return trits;
}

/** 32 rows of 24 columns. */
function putThrees(
  trits: Int8Array,
  cols: number,
  row0: number,
  k0: number,
  magnitudes: Uint8Array,
  signs: Uint8Array,
  tensor: string,
): void {
  for (let three = 0; three < 8; three++) {
    for (let p = 0; p < 32; p++) {
      const row = rowOfByte(p);
      const byte = magnitudes[(three >> 1) * 32 + p]!;
      const magnitude = (three & 1) === 0 ? byte >> 4 : byte & 15;
      if (magnitude > 13) throw invalid(tensor, `has the code ${magnitude} of three trits, of at most 13`);
      const word = signs[2 * (row & 15)]! | (signs[2 * (row & 15) + 1]! << 8);
      const negative = (word >> (15 - (2 * three + (row >> 4)))) & 1;
      const code = 13 + (negative === 1 ? -magnitude : magnitude);
      const to = (row0 + row) * cols + k0 + 3 * three;
      trits[to] = Math.floor(code / 9) - 1;
      trits[to + 1] = (Math.floor(code / 3) % 3) - 1;
      trits[to + 2] = (code % 3) - 1;
    }
  }
}
