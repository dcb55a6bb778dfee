import { describe, expect, it } from 'vitest';
import { testTernaryPacking } from '../../test/support/ternary-packing.ts';
import { packT5b, t5bBytes, unpackT5b } from './ternary-t5b.ts';

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

  testTernaryPacking({ pack: packT5b, unpack: unpackT5b, packPlainly });
});
