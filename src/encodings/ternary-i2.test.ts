import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { TernaryRows } from '../models/ternary.ts';
import { i2Bytes, packI2, unpackI2 } from './ternary-i2.ts';
import { packHuggingFace, randomTrits } from './testing.ts';

/** The whole encoded matrix, padding included, written from the definition of the layout. */
function packPlainly(trits: Int8Array, rows: number, cols: number): Uint8Array {
  const padded = (n: number) => Math.ceil(n / 64) * 64;
  const out = new Uint8Array(i2Bytes(rows, cols));
  const tiles = padded(cols) / 16;
  for (let row = 0; row < padded(rows); row++) {
    for (let k = 0; k < padded(cols); k++) {
      const code = row < rows && k < cols ? trits[row * cols + k]! + 1 : 1;
      const byte = (Math.floor(row / 16) * tiles + Math.floor(k / 16)) * 64 + 4 * (row % 16) + (k % 4);
      out[byte]! |= code << (2 * (Math.floor(k / 4) % 4));
    }
  }
  return out;
}

const fromTrits = (rows: number, cols: number, trits: Int8Array) =>
  packI2({ kind: 'ternary', rows, cols, blocks: [{ form: 'trits', rows, trits }] });
const fromPacked = (rows: number, cols: number, bytes: Uint8Array) =>
  packI2({ kind: 'ternary', rows, cols, blocks: [{ form: 'packed', rows, bytes }] });

const sizes = { rows: fc.integer({ min: 1, max: 150 }), cols: fc.integer({ min: 1, max: 150 }) };

describe('i2', () => {
  it('puts a single weight where the layout says', () => {
    const trits = new Int8Array(70 * 130);
    trits[69 * 130 + 117] = 1; // tile row 4, tile column 7 of 12; in it row 5, column 5 = field 1, j 1
    const bytes = fromTrits(70, 130, trits);
    const changed = [...bytes.keys()].filter((i) => bytes[i] !== 0x55);
    expect(bytes.length).toBe(i2Bytes(70, 130));
    expect(changed).toEqual([(4 * 12 + 7) * 64 + 4 * 5 + 1]);
    expect(bytes[changed[0]!]).toBe(0b01_01_10_01);
  });

  it('packs any shape as the layout says, and unpacks it', () => {
    fc.assert(
      fc.property(sizes.rows, sizes.cols, fc.nat(), (rows, cols, seed) => {
        const trits = randomTrits(rows * cols, seed);
        const bytes = fromTrits(rows, cols, trits);
        expect(bytes).toEqual(packPlainly(trits, rows, cols));
        expect(unpackI2(bytes, rows, cols)).toEqual(trits);
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
    expect(packI2({ kind: 'ternary', rows, cols, blocks })).toEqual(packPlainly(trits, rows, cols));
  });
});
