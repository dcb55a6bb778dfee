import fc from 'fast-check';
import { expect, it } from 'vitest';
import { packHuggingFace, randomTrits } from '../../src/encodings/testing.ts';
import type { TernaryRows } from '../../src/models/ternary.ts';
import type { TernaryWeight } from '../../src/models/weights.ts';

/** An encoding of ternary weights, and its layout written plainly from the definition. */
interface TernaryEncoding {
  readonly pack: (weight: TernaryWeight) => Uint8Array;
  readonly unpack: (bytes: Uint8Array, rows: number, cols: number) => Int8Array;
  readonly packPlainly: (trits: Int8Array, rows: number, cols: number) => Uint8Array;
}

const sizes = { rows: fc.integer({ min: 1, max: 150 }), cols: fc.integer({ min: 1, max: 150 }) };

/** What holds for every encoding of ternary weights, whatever its layout. */
export function testTernaryPacking({ pack, unpack, packPlainly }: TernaryEncoding): void {
  const fromTrits = (rows: number, cols: number, trits: Int8Array) =>
    pack({ kind: 'ternary', rows, cols, blocks: [{ form: 'trits', rows, trits }] });
  const fromPacked = (rows: number, cols: number, bytes: Uint8Array) =>
    pack({ kind: 'ternary', rows, cols, blocks: [{ form: 'packed', rows, bytes }] });

  it('packs any shape as the layout says, and unpacks it', () => {
    fc.assert(
      fc.property(sizes.rows, sizes.cols, fc.nat(), (rows, cols, seed) => {
        const trits = randomTrits(rows * cols, seed);
        const bytes = fromTrits(rows, cols, trits);
        expect(bytes).toEqual(packPlainly(trits, rows, cols));
        expect(unpack(bytes, rows, cols)).toEqual(trits);
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
    expect(pack({ kind: 'ternary', rows, cols, blocks })).toEqual(packPlainly(trits, rows, cols));
  });
}
