import { describe, expect, it } from 'vitest';
import { f16ToF32, f32ToF16 } from '../common/halves.ts';
import { rowStride } from './kernel.ts';
import {
  type NormQuantizeGroupShape,
  type QuantizeGroupShape,
  quantizeGroup,
  rmsNormQuantizeGroup,
} from './quantize-group.ts';
import { type Elements, padRows, randomFloats, runEverywhere } from './testing.ts';

const LARGEST = { int8: 127, int16: 16256, sums: 127 };

function room(n: number, { k, group, to }: QuantizeGroupShape) {
  const planes = to === 'int16' ? 2 : 1;
  const parts = n * rowStride(Math.ceil(k / group));
  return [new Int8Array(planes * n * rowStride(k)).fill(99), new Float32Array(parts), new Int32Array(parts)];
}

/** Expects a quantization of `values` [n, k], which are known to `error` times a group's largest. */
function expectQuantized(
  [q, scale, sum]: readonly Elements[],
  values: readonly number[],
  { k, group, to }: QuantizeGroupShape,
  error: number,
): void {
  const planes = to === 'int16' ? 2 : 1;
  const stride = rowStride(k);
  const largest = LARGEST[to];
  for (let token = 0; token < values.length / k; token++) {
    const at = token * planes * stride;
    const row = Array.from({ length: stride }, (_, i) => {
      if (planes === 1) return q![at + i]!;
      expect(Math.abs(q![at + stride + i]!)).toBeLessThanOrEqual(64);
      return 128 * q![at + i]! + q![at + stride + i]!;
    });
    expect(row.slice(k).every((value) => value === 0)).toBe(true);
    for (let g = 0; g < Math.ceil(k / group); g++) {
      const [from, end] = [g * group, Math.min(k, (g + 1) * group)];
      const part = token * rowStride(Math.ceil(k / group)) + g;
      const peak = Math.max(1e-30, ...values.slice(token * k + from, token * k + end).map(Math.abs));
      expect(Math.abs(scale![part]! / (peak / largest) - 1)).toBeLessThan(1e-6 + error);
      expect(sum![part]).toBe(row.slice(from, end).reduce((a, b) => a + b, 0));
      for (let i = from; i < end; i++) {
        const exact = (values[token * k + i]! * largest) / peak;
        expect(Math.abs(row[i]! - exact)).toBeLessThan(0.5 + largest * (1e-6 + error));
      }
    }
  }
}

const SHAPES: readonly QuantizeGroupShape[] = [
  { k: 192, group: 64, to: 'int8', ordered: false },
  { k: 192, group: 128, to: 'int16', ordered: false },
  { k: 147, group: 32, to: 'int16', ordered: true },
  { k: 20, group: 128, to: 'int8', ordered: true },
];

const FROM = ['f32', 'f16', 'int8'] as const;

/** Groups of different magnitudes, one of zeros. */
function activations(n: number, k: number): Float32Array {
  return randomFloats(k, n * k).map((x, i) => (i % k >= 160 ? 0 : x * 10 ** ((i >> 5) % 4)));
}

const orderOf = (k: number) => Int32Array.from({ length: k }, (_, i) => (i * 101 + 7) % k);

const ordered = (x: Float32Array, { k, ordered: isOrdered }: QuantizeGroupShape) =>
  Array.from(x, (value, i) => (isOrdered ? x[i - (i % k) + orderOf(k)[i % k]!]! : value));

const orderBuffer = ({ k, ordered: isOrdered }: QuantizeGroupShape) => (isOrdered ? [orderOf(k)] : []);

describe('quantize.group', () => {
  it.each(SHAPES.flatMap((shape) => [1, 3].map((n) => ({ ...shape, n }))))('%o', ({ n, ...shape }) => {
    const x = activations(n, shape.k);
    const order = orderBuffer(shape);
    const out = runEverywhere(quantizeGroup, shape, [padRows(x, shape.k), ...order, ...room(n, shape)], [n]);
    expectQuantized(out.slice(1 + order.length), ordered(x, shape), shape, 0);
  });

  it('of values that are no numbers gives some codes, the same everywhere', () => {
    const shape = SHAPES[0]!;
    const x = activations(1, shape.k).fill(Number.NaN, 0, 8).fill(Number.POSITIVE_INFINITY, 70, 71);
    runEverywhere(quantizeGroup, shape, [padRows(x, shape.k), ...room(1, shape)], [1]);
  });
});

const fours = (values: readonly number[]) =>
  Array.from({ length: Math.ceil(values.length / 4) }, (_, i) => values.slice(4 * i, 4 * i + 4));
const sumOf = (values: readonly number[]) => values.reduce((sum, x) => sum + Math.abs(x), 0);
const halved = (x: number) => f16ToF32(f32ToF16(x));

describe('quantize.group to sums', () => {
  it.each(SHAPES.flatMap((shape) => FROM.map((from) => ({ ...shape, to: 'sums' as const, from }))))(
    '%o: of 4 columns at most 255, in the steps that takes',
    (shape) => {
      const { k, group, from } = shape;
      const groups = Math.ceil(k / group);
      const x = activations(2, k);
      const order = orderBuffer(shape);
      const buffers = [padRows(x, k), ...order, ...room(2, shape)];
      const [q, scale, sum] = runEverywhere(quantizeGroup, shape, buffers, [2]).slice(1 + order.length);
      const values = ordered(x, shape);
      for (let part = 0; part < 2 * groups; part++) {
        const [token, g] = [Math.floor(part / groups), part % groups];
        const [start, end] = [g * group, Math.min(k, (g + 1) * group)];
        const exact = values.slice(token * k + start, token * k + end);
        const found = Array.from(q!.slice(token * rowStride(k) + start, token * rowStride(k) + end));
        const at = token * rowStride(groups) + g;
        const peak = Math.max(1e-30, ...exact.map(Math.abs));
        const given = from === 'f16' ? exact.map(halved) : exact;
        const largestSum = Math.max(...fours(given).map(sumOf));
        const step = Math.max(peak / 127, largestSum / 253);
        expect(Math.max(...fours(found).map(sumOf))).toBeLessThanOrEqual(255);
        expect(sum![at]).toBe(found.reduce((a, b) => a + b, 0));
        // From int8, sums of what that rounded to are up to 2 larger or smaller.
        const slack = from === 'int8' ? 2 / 250 : 1e-3;
        expect(Math.abs(scale![at]! / step - 1)).toBeLessThan(slack);
        const most = from === 'int8' ? 0.5 * scale![at]! + (0.5 * peak) / 127 : 0.5 * scale![at]!;
        for (const [i, value] of exact.entries()) {
          const half = from === 'f16' ? Math.abs(value - halved(value)) : 0;
          expect(Math.abs(found[i]! * scale![at]! - value)).toBeLessThanOrEqual((most + half) * (1 + 1e-5));
        }
      }
    },
  );

  it('leaves int8 as it is where no sum is above 255', () => {
    const shape = { k: 64, group: 64, ordered: false } as const;
    const x = Float32Array.from({ length: 64 }, (_, i) => (i % 4 === 0 ? i - 30 : (i - 30) / 4));
    const run = (to: 'int8' | 'sums') => {
      const form = { ...shape, to, from: 'int8' } as const;
      return runEverywhere(quantizeGroup, form, [x, ...room(1, form)], [1]);
    };
    expect(run('sums')).toEqual(run('int8'));
  });

  it('of values that are no numbers gives some codes, the same everywhere', () => {
    for (const from of FROM) {
      const shape = { ...SHAPES[0]!, to: 'sums', from } as const;
      const x = activations(1, shape.k).fill(Number.NaN, 0, 8).fill(Number.POSITIVE_INFINITY, 70, 71);
      runEverywhere(quantizeGroup, shape, [padRows(x, shape.k), ...room(1, shape)], [1]);
    }
  });
});

describe('rmsNorm.quantize.group', () => {
  it.each(SHAPES)('%o', (shape) => {
    const { k } = shape;
    const eps = 1e-5;
    const x = activations(3, k);
    const weight = randomFloats(9, rowStride(k));
    const normed = Float32Array.from(x, (value, i) => {
      const row = x.subarray(i - (i % k), i - (i % k) + k);
      const rms = Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / k + eps);
      return (value / rms) * weight[i % k]!;
    });
    const order = orderBuffer(shape);
    const whole: NormQuantizeGroupShape = { ...shape, eps };
    const buffers = [padRows(x, k), weight, ...order, ...room(3, shape)];
    const out = runEverywhere(rmsNormQuantizeGroup, whole, buffers, [3]);
    expectQuantized(out.slice(2 + order.length), ordered(normed, shape), shape, 2e-6);
  });
});
