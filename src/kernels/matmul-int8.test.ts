import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { rowStride } from './kernel.ts';
import { matmulInt8, matmulQuantizeInt16, WHOLE_MAX } from './matmul-int8.ts';
import {
  cropRows,
  MACHINES,
  padRows,
  randomFloats,
  randomInts,
  runDefault,
  runEverywhere,
  runSchedules,
} from './testing.ts';

/** Activations as integers and their units, [n, stride of k] and [n]. */
function quantized(x: Float32Array, k: number): readonly [Int16Array, Float32Array] {
  const n = x.length / k;
  const buffers = [padRows(x, k), new Int16Array(n * rowStride(k)).fill(77), new Float32Array(n)];
  const [, q, unit] = runEverywhere(matmulQuantizeInt16, { k }, buffers, [n]);
  return [q as Int16Array, unit as Float32Array];
}

function problem(m: number, k: number, n: number) {
  const [q, unit] = quantized(randomFloats(k, n * k), k);
  const table = Int8Array.from(randomInts(m, m * rowStride(k), -128, 127));
  const rowScale = randomFloats(m, rowStride(m));
  const out = new Float32Array(n * rowStride(m)).fill(7);
  return { q, unit, table, rowScale, buffers: [q, unit, table, rowScale, out] };
}

/** What a dot is to the last bit: exact, rounded, then scaled twice. */
function expected({ q, unit, table, rowScale }: ReturnType<typeof problem>, m: number, k: number): number[] {
  return [...unit].flatMap((ofToken, t) =>
    Array.from({ length: m }, (_, row) => {
      let dot = 0;
      for (let i = 0; i < k; i++) dot += q[t * rowStride(k) + i]! * table[row * rowStride(k) + i]!;
      return Math.fround(Math.fround(Math.fround(dot) * rowScale[row]!) * ofToken);
    }),
  );
}

describe('matmul of int8', () => {
  it.each([
    { m: 1, k: 1 },
    { m: 33, k: 50 },
    { m: 70, k: 64 },
    // More columns than lanes of 16 bytes have room for.
    { m: 3, k: 4200 },
  ])('of $m x $k is exact but for the rounding of its result', ({ m, k }) => {
    for (const n of [1, 5]) {
      const p = problem(m, k, n);
      const out = runEverywhere(matmulInt8, { m, k, elem: 'i8' }, p.buffers, [n]).at(-1)!;
      expect(cropRows(out, m)).toEqual(expected(p, m, k));
      expect(out[m]).toBe(m % 64 === 0 ? out[m] : 7);
    }
  });

  it('is the same in every schedule', () => {
    const [m, k, n] = [37, 100, 11];
    const p = problem(m, k, n);
    const out = runSchedules(matmulInt8, { m, k, elem: 'i8' }, p.buffers, [n]).at(-1)!;
    expect(cropRows(out, m)).toEqual(expected(p, m, k));
  });

  it('does not overflow on the largest weights and activations, and refuses more columns', () => {
    const k = 32768;
    const q = new Int16Array(2 * k).fill(-WHOLE_MAX, 0, k).fill(WHOLE_MAX, k);
    const table = new Int8Array(2 * k).fill(-128);
    const buffers = [q, Float32Array.of(1, 1), table, Float32Array.of(1, 1), new Float32Array(2 * 64)];
    const shape = { m: 2, k, elem: 'i8' } as const;
    for (const machine of MACHINES.filter(({ vectorBytes }) => vectorBytes >= 16)) {
      const at = { ...matmulInt8, defaultSchedule: () => matmulInt8.defaultSchedule(shape, machine) };
      const out = runDefault(at, shape, buffers, [2]).at(-1)!;
      const dot = Math.fround(WHOLE_MAX * 128 * k);
      expect([out[0], out[1], out[64], out[65]]).toEqual([dot, dot, -dot, -dot]);
    }
    const large = { ...shape, k: k + 1 };
    expect(() => matmulInt8.build('f', large, matmulInt8.defaultSchedule(large, MACHINES[0]!))).toThrow(
      LutraError,
    );
  });

  it('reads activations to within half a unit, zeros and NaN included', () => {
    const k = 70;
    const x = randomFloats(3, 4 * k);
    x.fill(0, k, 2 * k);
    x[2 * k] = Number.NaN;
    const [q, unit] = quantized(x, k);
    for (const t of [0, 1, 3]) {
      for (let i = 0; i < rowStride(k); i++) {
        const value = i < k ? x[t * k + i]! : 0;
        expect(Math.abs(q[t * rowStride(k) + i]! * unit[t]! - value)).toBeLessThanOrEqual(0.501 * unit[t]!);
      }
    }
    expect(Math.max(...q.subarray(0, k).map(Math.abs))).toBe(WHOLE_MAX);
  });
});
