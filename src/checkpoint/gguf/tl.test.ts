/**
 * TL1 and TL2 as bitnet.cpp's converter defines them: by reshaping and transposing the whole matrix of
 * indices, with none of the reader's index arithmetic.
 */
import { describe, expect, test } from 'vitest';
import { LutraError } from '../../common/errors.ts';
import { randomUniform } from '../../common/random.ts';
import { decodeTl1, decodeTl2 } from './tl.ts';
import { ggufBytes } from './types.ts';

/** A dense array; `reshape` and `transpose` as in numpy. */
interface Dense {
  readonly shape: readonly number[];
  readonly data: Int16Array;
}

const reshape = ({ data }: Dense, ...shape: readonly number[]): Dense => ({ shape, data });

function transpose({ shape, data }: Dense, ...axes: readonly number[]): Dense {
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  const to = axes.map((axis) => shape[axis]!);
  const steps = axes.map((axis) => strides[axis]!);
  const index = to.map(() => 0);
  const out = new Int16Array(data.length);
  for (let i = 0; i < data.length; i++) {
    out[i] = data[index.reduce((at, x, axis) => at + x * steps[axis]!, 0)]!;
    for (let axis = to.length - 1; axis >= 0 && ++index[axis]! === to[axis]; axis--) index[axis] = 0;
  }
  return { shape: to, data: out };
}

/** Row-major matrix to tiles: [rows/BM, cols/BK, BM/bm, BK/by, by, bm], where a column is one index. */
function tiles(matrix: Dense, BM: number, BK: number, bm: number, by: number): Dense {
  const [rows, cols] = matrix.shape as [number, number];
  const split = reshape(matrix, rows / BM, BM / bm, bm, cols / BK, BK / by, by);
  return transpose(split, 0, 3, 1, 4, 5, 2);
}

const trits = (rows: number, cols: number, seed: number): Int8Array => {
  const uniform = randomUniform(seed);
  return Int8Array.from({ length: rows * cols }, () => Math.floor(uniform() * 3) - 1);
};

/** 3 a + b + 4 for pairs, or 9 a + 3 b + c for threes. */
function indices(
  values: Int8Array,
  rows: number,
  cols: number,
  count: 2 | 3,
  first: number,
  last: number,
): Dense {
  const data = new Int16Array((rows * (last - first)) / count);
  let at = 0;
  for (let row = 0; row < rows; row++) {
    for (let k = first; k < last; k += count) {
      let index = count === 2 ? 4 : 0;
      for (let i = 0; i < count; i++) index += values[row * cols + k + i]! * 3 ** (count - 1 - i);
      data[at++] = index;
    }
  }
  return { shape: [rows, (last - first) / count], data };
}

function tl1(values: Int8Array, rows: number, cols: number, BM: number, BK: number, bm: number): Uint8Array {
  const by = 256 / bm;
  const pairs = indices(values, rows, cols, 2, 0, cols);
  const tiled = tiles(pairs, BM, BK / 2, bm, by / 2);
  // Pairs of a block: [.., by/2, bm] to [.., bm/16, by/4, 16 rows, 2 pairs].
  const outer = (rows / BM) * (cols / BK) * (BM / bm) * (BK / by);
  const { data } = transpose(reshape(tiled, outer, by / 4, 2, bm / 16, 16), 0, 3, 1, 4, 2);
  return Uint8Array.from({ length: data.length / 2 }, (_, i) => (data[2 * i]! << 4) | data[2 * i + 1]!);
}

/** Nibbles of 32 rows with the middle eights exchanged: [.., 2 indices, 32 rows] to bytes. */
function rowBytes({ data }: Dense): number[] {
  const count = data.length / 64;
  const bytes: number[] = [];
  for (let i = 0; i < count; i++) {
    const rows = Array.from({ length: 32 }, (_, r) => (data[i * 64 + r]! << 4) | data[i * 64 + 32 + r]!);
    bytes.push(...rows.slice(0, 8), ...rows.slice(16, 24), ...rows.slice(8, 16), ...rows.slice(24));
  }
  return bytes;
}

function tl2(values: Int8Array, rows: number, cols: number, BM: number, BK: number): Uint8Array {
  const split = cols - (cols % BK);
  const threes = indices(values, rows, cols, 3, 0, split);
  const magnitudes = tiles({ ...threes, data: threes.data.map(Math.abs) }, BM, BK / 3, 32, 2);
  const signs = tiles({ ...threes, data: threes.data.map((v) => (v < 0 ? 1 : 0)) }, BM, BK / 3, 32, 8);
  const words: number[] = [];
  for (let at = 0; at < signs.data.length; at += 256) {
    for (let j = 0; j < 16; j++) {
      let word = 0;
      for (let i = 0; i < 16; i++) word |= signs.data[at + i * 16 + j]! << (15 - i);
      words.push(word & 255, word >> 8);
    }
  }
  const rest = cols - split;
  const pairs = rest === 0 ? [] : rowBytes(tiles(indices(values, rows, cols, 2, split, cols), BM, 16, 32, 2));
  const bytes = new Uint8Array(ggufBytes('TL2', [rows, cols]) - 32);
  const parts = rowBytes(magnitudes);
  bytes.set(parts);
  bytes.set(words, parts.length);
  bytes.set(pairs, parts.length + words.length);
  return bytes;
}

/** Millions of values are too many for toEqual. */
function expectSame(found: Int8Array, expected: Int8Array): void {
  expect(found).toHaveLength(expected.length);
  expect(found.findIndex((value, i) => value !== expected[i])).toBe(-1);
}

describe('TL1', () => {
  test.each([
    [1536, 1536, 128, 64, 64],
    [1536, 4096, 256, 128, 32],
  ])('%i x %i', (rows, cols, BM, BK, bm) => {
    const expected = trits(rows, cols, rows + cols);
    const bytes = tl1(expected, rows, cols, BM, BK, bm);
    expect(bytes).toHaveLength(ggufBytes('TL1', [rows, cols]) - 32);
    expectSame(decodeTl1(bytes, rows, cols, 't'), expected);
  });
});

describe('TL2', () => {
  // Without columns beyond the last tile, and with 64 of them.
  test.each([
    [1536, 1536, 128, 192],
    [1536, 4096, 256, 96],
  ])('%i x %i', (rows, cols, BM, BK) => {
    const expected = trits(rows, cols, rows + cols);
    const bytes = tl2(expected, rows, cols, BM, BK);
    expectSame(decodeTl2(bytes, rows, cols, 't'), expected);
  });
});

test('codes that mean nothing, and shapes without known tiles, are refused', () => {
  const refusal = (run: () => unknown) => {
    try {
      run();
    } catch (error) {
      if (error instanceof LutraError) return `${error.code}: ${error.message}`;
    }
    return 'none';
  };
  const bytes = new Uint8Array((1536 * 1536) / 4).fill(0x90);
  expect(refusal(() => decodeTl1(bytes, 1536, 1536, 't'))).toMatch(/^invalid: tensor t has the pair code 9/);
  expect(refusal(() => decodeTl2(bytes.fill(0xe0), 1536, 1536, 't'))).toMatch(/^invalid: .*code 14 of three/);
  expect(refusal(() => decodeTl1(bytes, 2560, 2560, 't'))).toMatch(/^unsupported: .*TL1 for 2560 x 2560/);
  expect(refusal(() => decodeTl2(bytes, 2560, 6912, 't'))).toMatch(/^unsupported: .*TL2 for 2560 x 6912/);
});
