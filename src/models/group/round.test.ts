import { describe, expect, it } from 'vitest';
import type { GroupSource } from '../../graph/ir.ts';
import { toF32 } from '../tensors.ts';
import { bf16Tensor, f32Tensor, memoryCheckpoint, randomValues } from '../testing.ts';
import { readCodes, readOrder, readScales, readZeros } from './group.ts';
import { type GroupMatrix, middleCode } from './matrix.ts';
import { roundingErrors } from './round.ts';

type RoundSource = Extract<GroupSource, { readonly format: 'round' }>;

const source = (fields: Partial<RoundSource>): RoundSource => ({
  format: 'round',
  tensor: 'w',
  bits: 4,
  group: 32,
  symmetric: false,
  ...fields,
});

/** The weights that the codes stand for, written from the definition. */
function dequantize({ rows, cols, bits, group, codes, scales, zeros }: GroupMatrix): number[] {
  const groups = Math.ceil(cols / group);
  const steps = toF32(scales);
  return Array.from({ length: rows * cols }, (_, i) => {
    const at = Math.floor(i / cols) * groups + Math.floor((i % cols) / group);
    const zero = zeros instanceof Uint8Array ? zeros[at]! : middleCode(bits);
    return steps[at]! * (codes[i]! - zero);
  });
}

const [ROWS, COLS] = [9, 80];
const VALUES = randomValues(ROWS * COLS, 1, 0.1);

/** Sums of uniform numbers, of this standard deviation. */
function normalValues(count: number, deviation: number): number[] {
  const uniform = randomValues(12 * count, 7, 1);
  return Array.from({ length: count }, (_, i) =>
    Math.fround((uniform.slice(12 * i, 12 * i + 12).reduce((a, b) => a + b) * deviation) / 2),
  );
}

/** The least squared error of a group, of a thousand steps and all zeros. */
function leastError(values: readonly number[], bits: number, symmetric: boolean): number {
  const largest = 2 ** bits - 1;
  const peak = Math.max(...values.map(Math.abs));
  let least = Number.POSITIVE_INFINITY;
  for (const zero of symmetric ? [2 ** (bits - 1)] : Array.from({ length: largest + 1 }, (_, i) => i)) {
    for (let i = 1; i <= 500; i++) {
      for (const step of [(i * 2 * peak) / (500 * largest), -(i * 2 * peak) / (500 * largest)]) {
        let error = 0;
        for (const value of values) {
          const code = Math.min(largest, Math.max(0, Math.round(value / step) + zero));
          error += (value - step * (code - zero)) ** 2;
        }
        least = Math.min(least, error);
      }
    }
  }
  return least;
}

describe('rounding to codes', () => {
  it.each([
    [8, 64, false],
    [8, 80, true],
  ] as const)(
    'to %i bits in groups of %i, symmetric %s, is within half a step',
    async (bits, group, symmetric) => {
      const checkpoint = memoryCheckpoint({ w: f32Tensor([ROWS, COLS], VALUES) });
      const matrix = await readCodes(source({ bits, group, symmetric }), checkpoint);
      const groups = Math.ceil(COLS / group);
      const steps = toF32(matrix.scales);
      expect(matrix.codes.reduce((a, b) => Math.max(a, b))).toBe(2 ** bits - 1);
      for (const [i, value] of dequantize(matrix).entries()) {
        const step = Math.abs(steps[Math.floor(i / COLS) * groups + Math.floor((i % COLS) / group)]!);
        // One code too few for the side of the smaller extreme, and scales rounded to f16.
        expect(Math.abs(value - VALUES[i]!)).toBeLessThan(
          (symmetric ? 1.01 : 0.51 + 2 ** (bits - 11)) * step,
        );
      }
    },
  );

  // What the best of all steps and zeros leaves of normally distributed weights, found by a fine search in float64.
  it.each([
    [2, 32, false],
    [2, 128, true],
    [3, 80, false],
    [4, 32, false],
    [4, 64, true],
  ] as const)(
    'to %i bits in groups of %i, symmetric %s, errs hardly more than the best grid',
    async (bits, group, symmetric) => {
      const values = normalValues(ROWS * COLS, 0.02);
      const checkpoint = memoryCheckpoint({ w: f32Tensor([ROWS, COLS], values) });
      const matrix = await readCodes(source({ bits, group, symmetric }), checkpoint);
      const errors = dequantize(matrix).reduce((sum, value, i) => sum + (value - values[i]!) ** 2, 0);
      const squares = values.reduce((sum, value) => sum + value ** 2, 0);
      expect(roundingErrors(checkpoint).get('w')).toBeCloseTo(errors / squares, 12);
      let least = 0;
      for (let row = 0; row < ROWS; row++) {
        for (let from = 0; from < COLS; from += group) {
          const end = Math.min(COLS, from + group);
          least += leastError(values.slice(row * COLS + from, row * COLS + end), bits, symmetric);
        }
      }
      expect(errors).toBeGreaterThan(0.999 * least);
      expect(errors).toBeLessThan(1.02 * least);
    },
  );

  it.each([
    [2, false],
    [3, true],
    [4, false],
  ] as const)('to %i bits, symmetric %s, meets trits, whatever their scale', async (bits, symmetric) => {
    const trits = VALUES.map(
      (value, i) => Math.sign(Math.round(20 * value)) * (1 + Math.floor(i / COLS) / 16),
    );
    const checkpoint = memoryCheckpoint({ w: f32Tensor([ROWS, COLS], trits) });
    const values = dequantize(await readCodes(source({ bits, symmetric }), checkpoint));
    // + 0: there are no two zeros.
    expect(values.map((value) => value + 0)).toEqual(Array.from(trits, (value) => value + 0));
  });

  it('gives one bit the sign and the mean magnitude', async () => {
    const checkpoint = memoryCheckpoint({ w: f32Tensor([1, 4], [0.5, -1, 1.5, -1]) });
    const matrix = await readCodes(source({ bits: 1, group: 4, symmetric: true }), checkpoint);
    expect(dequantize(matrix)).toEqual([1, -1, 1, -1]);
  });

  it('keeps what codes can say, zeros and groups of one sign included', async () => {
    const rows = [
      [0, 0, 0, 0, 0, 0, 0, 0],
      [0.25, 0.5, 0.75, 1, 1.25, 1.5, 3.5, 3.75],
      [-3.75, -0.25, 0, -1, -1.25, -1.5, -3.5, -2],
    ];
    const checkpoint = memoryCheckpoint({ w: bf16Tensor([3, 8], rows.flat()) });
    expect(dequantize(await readCodes(source({ group: 8 }), checkpoint))).toEqual(rows.flat());
    expect(roundingErrors(checkpoint).get('w')).toBe(0);
  });

  it('gives scales and zeros with the codes or alone', async () => {
    const checkpoint = memoryCheckpoint({ w: f32Tensor([ROWS, COLS], VALUES) });
    const asked = source({ bits: 3 });
    const scales = await readScales(asked, checkpoint);
    const matrix = await readCodes(asked, checkpoint);
    expect(scales).toEqual(matrix.scales);
    expect(await readZeros(asked, checkpoint)).toEqual(matrix.zeros);
    await expect(readOrder(asked, checkpoint)).rejects.toThrow('w, quantized as round, has no order');
  });

  it('refuses weights that are not finite, or too large', async () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, 1e30]) {
      const checkpoint = memoryCheckpoint({ w: f32Tensor([1, 2], [1, bad]) });
      await expect(readCodes(source({}), checkpoint)).rejects.toMatchObject({
        code: 'invalid',
        message: expect.stringContaining('tensor w has weights that are not finite'),
      });
    }
  });
});
