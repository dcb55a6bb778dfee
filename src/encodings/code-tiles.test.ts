import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { randomUniform } from '../common/random.ts';
import type { CodeBits } from '../graph/ir.ts';
import {
  codeTilesBytes,
  groupLanesLength,
  packCodeTiles,
  packGroupLanes,
  packNibbleLanes,
  unpackCodeTiles,
  unpackGroupLanes,
  unpackNibbleLanes,
} from './code-tiles.ts';

const BITS: readonly CodeBits[] = [1, 2, 3, 4, 6, 8];

function randomCodes(count: number, bits: CodeBits, seed: number): Uint8Array {
  const random = randomUniform(seed);
  return Uint8Array.from({ length: count }, () => Math.floor(random() * 2 ** bits));
}

const pack = (bits: CodeBits, rows: number, cols: number, codes: Uint8Array) =>
  packCodeTiles({ kind: 'codes', bits, rows, cols, blocks: [{ rows, codes }] });

/** The set bits of an encoded matrix as `byte.bit`. */
function setBits(bytes: Uint8Array): string[] {
  return [...bytes].flatMap((byte, i) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => (byte >> bit) & 1).map((bit) => `${i}.${bit}`),
  );
}

describe('code-tiles', () => {
  // Of 128 columns: row 21 is row 5 of the second row of tiles.
  it.each([
    [1, 1, 117, 4 * 64, 3 * 64 + 4 * 5 + 1, [5]], // tile 3, column 21 = field 5, j 1
    [2, 2, 117, 8 * 64, 7 * 64 + 4 * 5 + 1, [3]], // tile 7, column 5 = field 1, j 1: code 2 is bit 1 of it
    [4, 8, 117, 16 * 64, 14 * 64 + 4 * 5 + 1, [7]], // tile 14, column 5 = field 1, j 1
    [8, 129, 117, 32 * 64, 29 * 64 + 4 * 5 + 1, [0, 7]], // tile 29, j 1
    [3, 4, 117, 12 * 64, (3 * 3 + 2) * 64 + 4 * 5 + 1, [5]], // the high bit: as 1 bit, in span 3
    [6, 16, 117, 24 * 64, (7 * 3 + 2) * 64 + 4 * 5 + 1, [2]], // a high bit: as 2 bits, in span 7, field 1
    [6, 4, 125, 24 * 64, (7 * 3 + 1) * 64 + 4 * 5 + 1, [6]], // a low bit: second tile of span 7, field 1
    [3, 2, 117, 12 * 64, (3 * 3 + 1) * 64 + 4 * 5 + 1, [3]], // a low bit: second tile of span 3, field 1
  ] as const)('puts %i bits, code %i, where the layout says', (bits, code, column, rowBytes, byte, set) => {
    const codes = new Uint8Array(70 * 128);
    codes[21 * 128 + column] = code;
    const bytes = pack(bits, 70, 128, codes);
    expect(bytes.length).toBe((128 / 16) * rowBytes);
    expect(setBits(bytes)).toEqual(set.map((bit) => `${rowBytes + byte}.${bit}`));
  });

  it('unpacks what it packed, of any shape, and has no bits in the padding', () => {
    const size = fc.integer({ min: 1, max: 140 });
    fc.assert(
      fc.property(fc.constantFrom(...BITS), size, size, fc.nat(), (bits, rows, cols, seed) => {
        const codes = randomCodes(rows * cols, bits, seed);
        const bytes = pack(bits, rows, cols, codes);
        expect(bytes.length).toBe(codeTilesBytes(bits, rows, cols));
        expect(unpackCodeTiles(bytes, bits, rows, cols)).toEqual(codes);
        const ones = (values: Uint8Array) => setBits(values).length;
        expect(ones(bytes)).toBe(ones(codes));
      }),
      { seed: 1, numRuns: 100 },
    );
  });

  it('joins blocks of any height and alignment', () => {
    const [cols, heights] = [76, [20, 33, 7]];
    const codes = randomCodes(60 * cols, 3, 2);
    let at = 0;
    const blocks = heights.map((rows, i) => {
      const memory = new Uint8Array(rows * cols + i);
      memory.set(codes.subarray(at * cols, (at + rows) * cols), i);
      at += rows;
      return { rows, codes: memory.subarray(i) };
    });
    const joined = packCodeTiles({ kind: 'codes', bits: 3, rows: 60, cols, blocks });
    expect(joined).toEqual(pack(3, 60, cols, codes));
  });
});

describe('group-lanes', () => {
  it('puts the 16 rows of a tile and group side by side', () => {
    const values = Float32Array.from({ length: 70 * 3 }, (_, i) => i + 1);
    const lanes = packGroupLanes(values, 70, 3, new Float32Array(groupLanesLength(70, 3)));
    expect(lanes.length).toBe(128 * 3);
    // Row 21, group 2: second row of tiles, its third group, lane 5.
    expect(lanes[(1 * 3 + 2) * 16 + 5]).toBe(21 * 3 + 2 + 1);
    expect(unpackGroupLanes(lanes, 70, 3, new Float32Array(70 * 3))).toEqual(values);
  });

  it('puts two groups of 4 bits into a byte, of any shape', () => {
    const values = new Uint8Array(70 * 6);
    values[21 * 6 + 3] = 9;
    const lanes = packNibbleLanes(values, 70, 6);
    // Row 21, groups 2 and 3: second row of tiles, its second pair, lane 5; group 3 in the upper half.
    expect([...lanes.entries()].filter(([, byte]) => byte !== 0)).toEqual([[(3 + 1) * 16 + 5, 9 << 4]]);
    const size = fc.integer({ min: 1, max: 40 });
    fc.assert(
      fc.property(size, size, fc.nat(), (rows, groups, seed) => {
        const random = randomCodes(rows * groups, 4, seed);
        const packed = packNibbleLanes(random, rows, groups);
        expect(packed.length).toBe(groupLanesLength(rows, Math.ceil(groups / 2)));
        expect(unpackNibbleLanes(packed, rows, groups)).toEqual(random);
      }),
      { seed: 2, numRuns: 50 },
    );
  });
});
