import { describe, expect, it } from 'vitest';
import { testTernaryPacking } from '../../test/support/ternary-packing.ts';
import { i2Bytes, packI2, unpackI2 } from './ternary-i2.ts';

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

  testTernaryPacking({ pack: packI2, unpack: unpackI2, packPlainly });
});
