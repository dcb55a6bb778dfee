import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { TernaryRows } from '../models/ternary.ts';
import { packT5b, t5bBytes, unpackT5b } from './ternary-t5b.ts';
import { packHuggingFace, randomTrits } from './testing.ts';

/** The whole encoded matrix, padding included, written from the definition of the layout. */
function packPlainly(trits: Int8Array, rows: number, cols: number): Uint8Array {
  const paddedRows = Math.ceil(rows / 64) * 64;
  const tiles = Math.ceil((Math.ceil(cols / 64) * 64) / 20);
  const out = new Uint8Array((paddedRows / 16) * tiles * 64);
  for (let row = 0; row < paddedRows; row++) {
    for (let k = 0; k < tiles * 20; k++) {
      const code = row < rows && k < cols ? trits[row * cols + k]! + 1 : 1;
      const byte = (Math.floor(row / 16) * tiles + Math.floor(k / 20)) * 64 + 4 * (row % 16) + (k % 4);
      out[byte]! += code * [81, 1, 3, 9, 27][Math.floor((k % 20) / 4)]!;
    }
  }
  return out;
}

const fromTrits = (rows: number, cols: number, trits: Int8Array) =>
  packT5b({ kind: 'ternary', rows, cols, blocks: [{ form: 'trits', rows, trits }] });
const fromPacked = (rows: number, cols: number, bytes: Uint8Array) =>
  packT5b({ kind: 'ternary', rows, cols, blocks: [{ form: 'packed', rows, bytes }] });

const sizes = { rows: fc.integer({ min: 1, max: 150 }), cols: fc.integer({ min: 1, max: 150 }) };

describe('t5b', () => {
  it('puts a single weight where the layout says', () => {
    const trits = new Int8Array(70 * 130);
    trits[69 * 130 + 117] = 1; // tile row 4, tile column 5 of 10; in it row 5, column 17: weight 27, j 1
    const bytes = fromTrits(70, 130, trits);
    const changed = [...bytes.keys()].filter((i) => bytes[i] !== 121);
    expect(bytes.length).toBe(t5bBytes(70, 130));
    expect(changed).toEqual([(4 * 10 + 5) * 64 + 4 * 5 + 1]);
    expect(bytes[changed[0]!]).toBe(121 + 27);
  });

  it('takes 1.6 bits a weight where nothing is padded', () => {
    expect(t5bBytes(2560, 2560)).toBe((2560 * 2560) / 5);
    expect(t5bBytes(2560, 6912)).toBe((2560 * 6920) / 5);
  });

  it('packs any shape as the layout says, and unpacks it', () => {
    fc.assert(
      fc.property(sizes.rows, sizes.cols, fc.nat(), (rows, cols, seed) => {
        const trits = randomTrits(rows * cols, seed);
        const bytes = fromTrits(rows, cols, trits);
        expect(bytes).toEqual(packPlainly(trits, rows, cols));
        expect(unpackT5b(bytes, rows, cols)).toEqual(trits);
      }),
      { seed: 2, numRuns: 60 },
    );
  });

  it('transcodes Hugging Face packing to what packing the trits gives', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 40 }), sizes.cols, fc.nat(), (quarter, cols, seed) => {
        const rows = 4 * quarter;
        const trits = randomTrits(rows * cols, seed);
        expect(fromPacked(rows, cols, packHuggingFace(trits, rows, cols))).toEqual(
          packPlainly(trits, rows, cols),
        );
      }),
      { seed: 3, numRuns: 60 },
    );
  });

  it('joins blocks of different forms and alignments at any row', () => {
    const cols = 72;
    const heights = [36, 20, 7];
    const rows = heights.reduce((a, b) => a + b);
    const trits = randomTrits(rows * cols, 4);
    let at = 0;
    const blocks = heights.map((height, i): TernaryRows => {
      const part = trits.slice(at * cols, (at + height) * cols);
      at += height;
      if (i === 2) return { form: 'trits', rows: height, trits: part };
      // The second block starts at an odd address.
      const packed = packHuggingFace(part, height, cols);
      const memory = new Uint8Array(packed.length + i);
      memory.set(packed, i);
      return { form: 'packed', rows: height, bytes: memory.subarray(i) };
    });
    expect(packT5b({ kind: 'ternary', rows, cols, blocks })).toEqual(packPlainly(trits, rows, cols));
  });
});
