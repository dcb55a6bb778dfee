import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { randomUniform } from '../common/random.ts';
import type { CodeBits } from '../graph/ir.ts';
import { bitPlanesBytes, PLANE_BITS, packBitPlanes, unpackBitPlanes } from './bit-planes.ts';

const pack = (bits: CodeBits, rows: number, cols: number, codes: Uint8Array, first = rows) =>
  packBitPlanes({
    kind: 'codes',
    bits,
    rows,
    cols,
    blocks: [
      { rows: first, codes: codes.subarray(0, first * cols) },
      { rows: rows - first, codes: codes.subarray(first * cols) },
    ],
  });

/** The set bits of an encoded matrix as `byte.bit`. */
function setBits(bytes: Uint8Array): string[] {
  return [...bytes].flatMap((byte, i) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => (byte >> bit) & 1).map((bit) => `${i}.${bit}`),
  );
}

describe('bit-planes', () => {
  // Of 130 columns, which are 6 spans with the padding: row 93 is row 13 of the second 16 of the second tile, byte 16 + 2 * 5 + 1 = 27
  // of a line; column 75 is bit 3 of line 1 of the third span.
  it.each([
    [1, 1, [(6 + 2) * 256 + 64 + 27]],
    [2, 2, [(6 + 2) * 512 + 256 + 64 + 27]],
    [3, 5, [(6 + 2) * 768 + 64 + 27, (6 + 2) * 768 + 512 + 64 + 27]],
    [4, 8, [(6 + 2) * 1024 + 768 + 64 + 27]],
  ] as const)('puts %i bits, code %i, where the layout says', (bits, code, bytes) => {
    const codes = new Uint8Array(100 * 130);
    codes[93 * 130 + 75] = code;
    const packed = pack(bits, 100, 130, codes);
    expect(packed.length).toBe(2 * 3 * 512 * bits);
    expect(setBits(packed)).toEqual(bytes.map((byte) => `${byte}.3`));
  });

  it('unpacks what it packed, of any shape, and has no bits in the padding', () => {
    const size = fc.integer({ min: 1, max: 140 });
    fc.assert(
      fc.property(fc.constantFrom(...PLANE_BITS), size, size, fc.nat(), (bits, rows, cols, seed) => {
        const random = randomUniform(seed);
        const codes = Uint8Array.from({ length: rows * cols }, () => Math.floor(random() * 2 ** bits));
        const bytes = pack(bits, rows, cols, codes, seed % (rows + 1));
        expect(bytes.length).toBe(bitPlanesBytes(bits, rows, cols));
        expect(unpackBitPlanes(bytes, bits, rows, cols)).toEqual(codes);
        expect(setBits(bytes).length).toBe(setBits(codes).length);
      }),
      { seed: 1, numRuns: 100 },
    );
  });
});
