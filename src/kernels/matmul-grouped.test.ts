import { describe, expect, it } from 'vitest';
import { narrowFloats, widenHalves } from '../common/halves.ts';
import { packGroupedRows, unpackGroupedRows } from '../encodings/grouped-rows.ts';
import { packScanNorms } from '../encodings/scan-norms.ts';
import { rowStride } from './kernel.ts';
import type { MatmulGroupedShape } from './matmul/grouped.ts';
import { matmul } from './matmul.ts';
import { matmulGrouped } from './matmul-grouped.ts';
import { groupsOf, matmulQuantize, planesStride } from './matmul-quantize.ts';
import {
  cropRows,
  type Elements,
  padRows,
  randomFloats,
  runDefault,
  runEverywhere,
  runSchedules,
} from './testing.ts';

type Format = Pick<MatmulGroupedShape, 'bits' | 'group' | 'planes'>;

const FORMATS: readonly Format[] = ([4, 6] as const).flatMap((bits) =>
  ([32, 64] as const).flatMap((group) => ([1, 2] as const).map((planes) => ({ bits, group, planes }))),
);

function quantized(x: Float32Array, k: number, { group, planes }: Format) {
  const n = x.length / k;
  const shape = { k, group, planes, norms: true };
  const groups = rowStride(groupsOf(shape));
  const buffers: Elements[] = [
    padRows(x, k),
    new Int8Array(n * planesStride(shape)),
    new Float32Array(n * groups),
    new Int32Array(n * groups),
    new Float32Array(n * rowStride(2)),
  ];
  const [, q, factor, sum, norm] = runEverywhere(matmulQuantize, shape, buffers, [n]);
  return { q: q!, factor: factor!, sum: sum!, norm: norm! };
}

function problem(m: number, k: number, n: number, format: Format, bounds: boolean) {
  const x = randomFloats(k, n * k);
  const values = randomFloats(m + k, m * k);
  const { table, norms } = packGroupedRows({ dtype: 'f32', values }, m, k, format);
  const act = quantized(x, k, format);
  const out = new Float32Array(n * rowStride(m));
  const rowNorm = new Float32Array(packScanNorms(norms, k).buffer);
  const buffers = bounds
    ? [act.q, act.factor, act.sum, act.norm, table, rowNorm, out, out]
    : [act.q, act.factor, act.sum, table, out];
  return { shape: { m, k, ...format, bounds }, x, values, table, act, buffers };
}

const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, v, i) => sum + v * b[i]!, 0);
const norm = (a: Float32Array) => Math.sqrt(dot(a, a));

describe.each(FORMATS)('$bits bits in groups of $group, $planes plane(s)', (format) => {
  it('reads activations to within half a unit, and knows how far they are off', () => {
    const k = 100;
    const x = randomFloats(4, 3 * k).map((v, i) => v * 2 ** (i % 7));
    x[5] = 0;
    const { q, factor, sum, norm: norms } = quantized(x, k, format);
    const { group, planes } = format;
    const groups = rowStride(groupsOf({ k, group }));
    for (let t = 0; t < 3; t++) {
      let [off, size] = [0, 0];
      for (let g = 0; g < groupsOf({ k, group }); g++) {
        let total = 0;
        for (let i = 0; i < group; i++) {
          const at = t * planesStride({ k, planes }) + g * planes * group + i;
          const whole = planes === 1 ? q[at]! : 64 * q[at]! + q[at + group]!;
          const unit = factor[t * groups + g]!;
          const value = g * group + i < k ? x[t * k + g * group + i]! : 0;
          expect(Math.abs(value - whole * unit)).toBeLessThanOrEqual(0.5001 * unit);
          total += whole;
          off += (value - whole * unit) ** 2;
          size += value ** 2;
        }
        expect(sum[t * groups + g]).toBe(total);
      }
      expect(norms[t * rowStride(2)]! / Math.sqrt(size)).toBeCloseTo(1, 5);
      expect(norms[t * rowStride(2) + 1]! / Math.sqrt(off)).toBeCloseTo(1, 3);
    }
  });

  it.each([
    { m: 1, k: 1 },
    { m: 35, k: 100 },
    { m: 16, k: 192 },
  ])('of $m x $k is close to float64 on what the table stands for', ({ m, k }) => {
    for (const n of [1, 3]) {
      const { shape, x, table, buffers } = problem(m, k, n, format, false);
      const out = cropRows(runEverywhere(matmulGrouped, shape, buffers, [n]).at(-1)!, m);
      const weights = unpackGroupedRows(table, m, k, format);
      for (let t = 0; t < n; t++) {
        const activations = x.subarray(t * k, (t + 1) * k);
        for (let r = 0; r < m; r++) {
          const row = weights.subarray(r * k, (r + 1) * k);
          // Activations are off by half a unit, 1/254 or 1/16318 of the largest, at most.
          const error = row.reduce((sum, w) => sum + Math.abs(w), 0) / (format.planes === 1 ? 253 : 16300);
          expect(Math.abs(out[t * m + r]! - dot(activations, row))).toBeLessThanOrEqual(error + 1e-6);
        }
      }
    }
  });

  it('is the same in every schedule and however tokens are batched', () => {
    const [m, k, n] = [17, 66, 7];
    const { shape, x, buffers } = problem(m, k, n, format, false);
    const together = cropRows(runSchedules(matmulGrouped, shape, buffers, [n]).at(-1)!, m);
    const apart = Array.from({ length: n }, (_, t) => {
      const { q, factor, sum } = quantized(x.subarray(t * k, (t + 1) * k), k, format);
      const alone = [q, factor, sum, buffers[3]!, new Float32Array(rowStride(m))];
      return cropRows(runDefault(matmulGrouped, shape, alone, [1]).at(-1)!, m);
    });
    expect(together).toEqual(apart.flat());
  });

  it('bounds the products with the stored table', () => {
    const [m, k, n] = [40, 200, 2];
    const { shape, x, values, buffers } = problem(m, k, n, format, true);
    const results = runEverywhere(matmulGrouped, shape, buffers, [n]);
    const [low, high] = results.slice(-2).map((rows) => cropRows(rows, m));
    for (let t = 0; t < n; t++) {
      const activations = x.subarray(t * k, (t + 1) * k);
      for (let r = 0; r < m; r++) {
        const row = values.subarray(r * k, (r + 1) * k);
        const exact = dot(activations, row);
        const width = (format.bits === 4 ? 0.12 : 0.035) + (format.planes === 1 ? 0.008 : 0.0002);
        expect(low![t * m + r]!).toBeLessThan(exact);
        expect(high![t * m + r]!).toBeGreaterThan(exact);
        expect(high![t * m + r]! - low![t * m + r]!).toBeLessThan(2 * width * norm(row) * norm(activations));
      }
    }
  });

  it('does not overflow on the largest codes and activations', () => {
    const k = 64;
    const values = new Float32Array(k).fill(-1);
    const { buffers, shape } = problem(1, k, 1, format, false);
    const { table } = packGroupedRows({ dtype: 'f32', values }, 1, k, format);
    for (const sign of [1, -1]) {
      const { q, factor, sum } = quantized(new Float32Array(k).fill(3 * sign), k, format);
      const run = [q, factor, sum, table, buffers.at(-1)!];
      const out = runEverywhere(matmulGrouped, shape, run, [1]).at(-1)!;
      expect(out[0]! / (-3 * sign * k)).toBeCloseTo(1, 5);
    }
  });
});

it('activations of zeros, of NaN and of infinity give what they must, everywhere', () => {
  const k = 64;
  const x = new Float32Array(3 * k);
  x[k] = Number.NaN;
  x[2 * k + 1] = Number.POSITIVE_INFINITY;
  for (const format of FORMATS) {
    const { norm: norms, q } = quantized(x, k, format);
    expect([...q.subarray(0, k)]).toEqual(Array(k).fill(0));
    expect(norms[0]).toBeLessThan(1e-14);
    expect(norms[64]).toBeNaN();
    expect(norms[128]).not.toBeLessThan(1e38);
  }
});

/** Rows that are hard to tell apart or to round, of k columns. */
function hardRows(k: number): Float32Array {
  const base = randomFloats(1, k);
  const rows: Float32Array[] = [
    base,
    base,
    // Apart by one unit of bf16 in one place.
    base.map((v, i) => (i === 7 ? v * (1 + 2 ** -7) : v)),
    base.map((v) => -v),
    new Float32Array(k),
    randomFloats(2, k).map((v, i) => (i % 64 === 5 ? v * 1e4 : v)),
    randomFloats(3, k).map((v) => v * 2 ** 100),
    randomFloats(4, k).map((v) => v * 2 ** -100),
    randomFloats(5, k).map((v) => v * 2 ** -130),
    new Float32Array(k).fill(1),
    Float32Array.from({ length: k }, (_, i) => (i % 2 === 0 ? 1 : -1)),
    // Between two codes everywhere.
    Float32Array.from({ length: k }, (_, i) => (i % 32 === 0 ? -1 : 0.5 / 32)),
  ];
  return Float32Array.from(rows.flatMap((row) => [...row]));
}

it.each(FORMATS.filter(({ group }) => group === 64))(
  'bounds of $bits bits and $planes planes hold against the bits of the stored head, for rows and activations made to be hard',
  (format) => {
    const k = 192;
    const bits = narrowFloats(hardRows(k), 'bf16');
    const values = widenHalves(bits, 'bf16');
    const m = values.length / k;
    const { table, norms } = packGroupedRows({ dtype: 'bf16', bits }, m, k, format);
    const packed = unpackGroupedRows(table, m, k, format);
    const rowNorm = new Float32Array(packScanNorms(norms, k).buffer);
    const difference = (row: number) =>
      Float32Array.from({ length: k }, (_, i) => values[row * k + i]! - packed[row * k + i]!);
    const activations = [
      randomFloats(9, k),
      randomFloats(9, k).map((v, i) => (i === 100 ? 3000 * v : v)),
      randomFloats(9, k).map((v) => v * 2 ** -70),
      // Along the error of a row, where the bound is as tight as can be, and the row itself.
      difference(0),
      difference(5).map((v) => v * 300),
      values.slice(0, k),
    ];
    const n = activations.length;
    const x = Float32Array.from(activations.flatMap((row) => [...row]));
    const { q, factor, sum, norm: own } = quantized(x, k, format);
    const stored = [padRows(x, k), bits, new Float32Array(n * rowStride(m))];
    const exact = cropRows(runDefault(matmul, { m, k, elem: 'bf16' }, stored, [n]).at(-1)!, m);
    const out = new Float32Array(n * rowStride(m));
    const buffers = [q, factor, sum, own, table, rowNorm, out, out];
    const shape = { m, k, ...format, bounds: true };
    const [low, high] = runDefault(matmulGrouped, shape, buffers, [n]).slice(-2);
    exact.forEach((value, i) => {
      const at = Math.floor(i / m) * rowStride(m) + (i % m);
      expect(low![at]!).toBeLessThanOrEqual(value);
      expect(high![at]!).toBeGreaterThanOrEqual(value);
    });
    // Equal rows have equal bounds; along a row's error the bound is met within a few percent.
    expect(low![0]).toBe(low![1]);
    const along = 3;
    const slack =
      (high![along * rowStride(m)]! - exact[along * m]!) / (exact[along * m]! - low![along * rowStride(m)]!);
    expect(Math.min(slack, 1 / slack)).toBeLessThan(0.2);
  },
);
