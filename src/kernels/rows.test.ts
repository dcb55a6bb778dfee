/** Kernels that work row by row without a choice of schedule. */
import { describe, expect, it } from 'vitest';
import { toF32 } from '../models/tensors.ts';
import { add } from './add.ts';
import { bias } from './bias.ts';
import { columns } from './columns.ts';
import { embedding } from './embedding.ts';
import { gatePacked } from './gate-packed.ts';
import { rowStride } from './kernel.ts';
import { quantize } from './quantize.ts';
import { rmsNorm } from './rms-norm.ts';
import { rmsNormHeads } from './rms-norm-heads.ts';
import { rmsNormQuantize } from './rms-norm-quantize.ts';
import { scale } from './scale.ts';
import { selectOutputs } from './select-outputs.ts';
import { cropRows, padRows, randomFloats, runEverywhere, storeFloats } from './testing.ts';

const WIDTHS = [1, 16, 50, 64, 147];
const cases = WIDTHS.flatMap((k) => [1, 5].map((n) => ({ k, n })));

const empty = (n: number, k: number) => new Float32Array(n * rowStride(k));

/** Rows of different magnitudes. */
function activations(seed: number, n: number, k: number): Float32Array {
  return randomFloats(seed, n * k).map((x, i) => x * 10 ** (Math.floor(i / k) - 1));
}

/** RMSNorm in float64. */
function norm(x: Float32Array, weight: Float32Array, k: number, eps: number): number[] {
  const y: number[] = [];
  for (let at = 0; at < x.length; at += k) {
    const row = [...x.subarray(at, at + k)];
    const rms = Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / k + eps);
    y.push(...row.map((v, i) => (v / rms) * weight[i]!));
  }
  return y;
}

/** Expects q, scale and sum to be a quantization of `x` [n, k], which is known to `error` times the largest. */
function expectQuantized(
  [q, scale, sum]: readonly [Int8Array, Float32Array, Int32Array],
  x: readonly number[],
  k: number,
  error: number,
): void {
  scale.forEach((s, row) => {
    const values = x.slice(row * k, (row + 1) * k);
    const peak = Math.max(1e-5, ...values.map(Math.abs));
    expect(Math.abs(s / (peak / 127) - 1)).toBeLessThan(1e-6 + error);
    const stored = [...q.subarray(row * rowStride(k), (row + 1) * rowStride(k))];
    values.forEach((v, i) => {
      expect(Math.abs(stored[i]! - (v * 127) / peak)).toBeLessThan(0.5 + 127 * (1e-6 + error));
    });
    expect(stored.slice(k).every((v) => v === 0)).toBe(true);
    expect(sum[row]).toBe(stored.reduce((total, v) => total + v, 0));
  });
}

const quantizedRows = (n: number, k: number) =>
  [new Int8Array(n * rowStride(k)).fill(99), new Float32Array(n), new Int32Array(n)] as const;

describe('rmsNorm', () => {
  it.each(cases)('of $n x $k is within 1e-6', ({ k, n }) => {
    const x = activations(k, n, k);
    const weight = randomFloats(k + 1, rowStride(k));
    const [, , out] = runEverywhere(rmsNorm, { k, eps: 1e-5 }, [padRows(x, k), weight, empty(n, k)], [n]);
    const expected = norm(x, weight, k, 1e-5);
    cropRows(out as Float32Array, k).forEach((y, i) => {
      expect(Math.abs(y - expected[i]!)).toBeLessThan(1e-6 * Math.max(1, Math.abs(expected[i]!)));
    });
  });
});

describe('quantize', () => {
  it.each(cases)('of $n x $k is a quantization', ({ k, n }) => {
    const x = activations(k, n, k);
    const out = runEverywhere(quantize, { k }, [padRows(x, k), ...quantizedRows(n, k)], [n]);
    expectQuantized(out.slice(1) as never, [...x], k, 0);
  });

  it('rounds ties to even', () => {
    const x = Float32Array.of(127, 0.5, 1.5, 2.5, -0.5, -1.5, -127);
    const [, q] = runEverywhere(quantize, { k: 7 }, [padRows(x, 7), ...quantizedRows(1, 7)], [1]);
    expect(cropRows(q!, 7).slice(0, 7)).toEqual([127, 0, 2, 2, 0, -2, -127]);
  });

  it('has a scale for a row of zeros, and keeps NaN and infinity from being undefined', () => {
    const x = Float32Array.of(0, 0, Number.NaN, 1, Number.POSITIVE_INFINITY, 1);
    const [, q, scale, sum] = runEverywhere(quantize, { k: 2 }, [padRows(x, 2), ...quantizedRows(3, 2)], [3]);
    expect(scale![0]).toBe(Math.fround(Math.fround(1e-5) / 127));
    expect(cropRows(q!, 2)).toEqual([0, 0, -128, 127, -128, 0]);
    expect([...sum!]).toEqual([0, -1, -128]);
  });
});

describe('rmsNorm.quantize', () => {
  it.each(cases)('of $n x $k is a quantization of the norm', ({ k, n }) => {
    const x = activations(k, n, k);
    const weight = randomFloats(k + 1, rowStride(k));
    const buffers = [padRows(x, k), weight, ...quantizedRows(n, k)];
    const out = runEverywhere(rmsNormQuantize, { k, eps: 1e-5 }, buffers, [n]);
    expectQuantized(out.slice(2) as never, norm(x, weight, k, 1e-5), k, 1e-6);
  });

  it('is rmsNorm and then quantize, bit for bit', () => {
    const [k, n] = [100, 3];
    const x = padRows(activations(1, n, k), k);
    const weight = randomFloats(2, rowStride(k));
    const [, , normed] = runEverywhere(rmsNorm, { k, eps: 1e-5 }, [x, weight, empty(n, k)], [n]);
    const apart = runEverywhere(quantize, { k }, [normed!, ...quantizedRows(n, k)], [n]);
    const fused = runEverywhere(rmsNormQuantize, { k, eps: 1e-5 }, [x, weight, ...quantizedRows(n, k)], [n]);
    expect(fused.slice(2)).toEqual(apart.slice(1));
  });
});

describe('embedding', () => {
  it.each(['f32', 'f16', 'bf16'] as const)('reads rows of %s', (elem) => {
    const [hidden, vocab] = [50, 9];
    const table = storeFloats(padRows(randomFloats(3, vocab * hidden), hidden, 0), elem);
    const tokens = Int32Array.of(8, 0, 3, 3);
    const [, , out] = runEverywhere(embedding, { hidden, elem }, [tokens, table, empty(4, hidden)], [4]);
    const values = toF32(
      table instanceof Float32Array
        ? { dtype: 'f32', values: table }
        : { dtype: elem as 'f16', bits: table as Uint16Array },
    );
    const expected = [...tokens].flatMap((id) => [...values.subarray(id * 64, id * 64 + hidden)]);
    expect(cropRows(out!, hidden)).toEqual(expected);
  });
});

describe('gate.packed', () => {
  const widths = [...WIDTHS, 700].flatMap((k) => [1, 3].map((n) => ({ k, n })));

  it.each(widths)('of $n x $k', ({ k, n }) => {
    const x = randomFloats(k, n * 2 * k).map((v) => v * 8);
    for (const act of ['relu2', 'silu'] as const) {
      const [, out] = runEverywhere(gatePacked, { k, act }, [padRows(x, 2 * k), empty(n, k)], [n]);
      cropRows(out as Float32Array, k).forEach((y, i) => {
        const row = Math.floor(i / k) * 2 * k;
        const gate = x[row + (i % k)]!;
        const up = x[row + k + (i % k)]!;
        const expected = (act === 'relu2' ? Math.max(gate, 0) ** 2 : gate / (1 + Math.exp(-gate))) * up;
        expect(Math.abs(y - expected)).toBeLessThanOrEqual(1e-6 * Math.abs(expected));
      });
    }
  });
});

describe('add and selectOutputs', () => {
  it.each(cases)('of $n x $k are exact', ({ k, n }) => {
    const a = randomFloats(k, n * k);
    const b = randomFloats(k + 1, n * k);
    const [, , sum] = runEverywhere(add, { k }, [padRows(a, k), padRows(b, k), empty(n, k)], [n]);
    expect(cropRows(sum!, k)).toEqual([...a].map((v, i) => Math.fround(v + b[i]!)));
    // The last row and every third, after 7 outputs of rows before.
    const wanted = Array.from({ length: n }, (_, i) => i % 3 === 1 || i === n - 1);
    const outputs = Int32Array.from(
      { length: n + 1 },
      (_, i) => 7 + wanted.slice(0, i).filter(Boolean).length,
    );
    const count = outputs[n]! - 7;
    const [, , rows] = runEverywhere(selectOutputs, { k }, [padRows(a, k), outputs, empty(count, k)], [n]);
    expect(cropRows(rows!, k)).toEqual(
      wanted.flatMap((kept, i) => (kept ? [...a.subarray(i * k, (i + 1) * k)] : [])),
    );
  });
});

describe('gelu', () => {
  it('of gate.packed is within 2e-6, and further off only where it is next to 0', () => {
    const k = 4000;
    const x = Float32Array.from({ length: 2 * k }, (_, i) => (i < k ? (i - k / 2) / 100 : 1));
    const [, out] = runEverywhere(gatePacked, { k, act: 'gelu' }, [padRows(x, 2 * k), empty(1, k)], [1]);
    cropRows(out as Float32Array, k).forEach((y, i) => {
      const v = x[i]!;
      const expected = v / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)));
      expect(Math.abs(y - expected)).toBeLessThan(2e-6 * Math.max(Math.abs(expected), 0.1));
    });
  });
});

describe('bias and scale', () => {
  it.each(cases)('of $n x $k are exact', ({ k, n }) => {
    const x = randomFloats(k, n * k);
    const row = randomFloats(k + 1, k);
    const [, , sum] = runEverywhere(bias, { k }, [padRows(x, k), padRows(row, k), empty(n, k)], [n]);
    expect(cropRows(sum!, k)).toEqual([...x].map((v, i) => Math.fround(v + row[i % k]!)));
    const [, product] = runEverywhere(scale, { k, factor: 25.3 }, [padRows(x, k), empty(n, k)], [n]);
    expect(cropRows(product!, k)).toEqual([...x].map((v) => Math.fround(v * Math.fround(25.3))));
  });
});

describe('rmsNorm.heads', () => {
  it.each([
    { k: 64, headDim: 16, heads: 3 },
    { k: 50, headDim: 6, heads: 4 },
    { k: 63, headDim: 21, heads: 3 },
    { k: 147, headDim: 50, heads: 2 },
  ])('of $heads heads of $headDim in $k columns is within 1e-6', ({ k, headDim, heads }) => {
    const n = 3;
    const normed = heads * headDim;
    const x = activations(k, n, k);
    const weight = randomFloats(k + 1, normed);
    const buffers = [padRows(x, k), padRows(weight, normed), empty(n, k)];
    const [, , out] = runEverywhere(rmsNormHeads, { k, normed, headDim, eps: 1e-6 }, buffers, [n]);
    const expected = [...x];
    for (let at = 0; at < x.length; at++) {
      const column = at % k;
      if (column % headDim !== 0 || column >= normed) continue;
      const own = weight.subarray(column, column + headDim);
      expected.splice(at, headDim, ...norm(x.subarray(at, at + headDim), own, headDim, 1e-6));
    }
    cropRows(out as Float32Array, k).forEach((y, i) => {
      expect(Math.abs(y - expected[i]!)).toBeLessThan(1e-6 * Math.max(1, Math.abs(expected[i]!)));
    });
  });
});

describe('columns', () => {
  it.each([
    { a: 16, b: 48, c: 0 },
    { a: 50, b: 7, c: 21 },
    { a: 1, b: 64, c: 3 },
  ])('puts $a, $b and $c side by side', (widths) => {
    const n = 3;
    const parts = Object.values(widths)
      .filter((k) => k > 0)
      .map((k, i) => ({ k, x: randomFloats(i + 1, n * k) }));
    const width = parts.reduce((sum, { k }) => sum + k, 0);
    const buffers = [...parts.map(({ k, x }) => padRows(x, k)), empty(n, width)];
    const out = runEverywhere(columns, widths, buffers, [n]).at(-1)!;
    const expected = Array.from({ length: n }, (_, t) =>
      parts.flatMap(({ k, x }) => [...x.subarray(t * k, (t + 1) * k)]),
    );
    expect(cropRows(out, width)).toEqual(expected.flat());
  });
});
