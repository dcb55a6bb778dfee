import { describe, expect, it } from 'vitest';
import { widenHalves } from '../common/halves.ts';
import { rowStride } from './kernel.ts';
import type { MatmulShape } from './matmul/dots.ts';
import { matmul, matmulRows } from './matmul.ts';
import {
  cropRows,
  type Elements,
  padRows,
  randomFloats,
  randomInts,
  runDefault,
  runEverywhere,
  runSchedules,
  storeFloats,
} from './testing.ts';

const ELEMS = ['f32', 'f16', 'bf16'] as const;

interface Problem {
  readonly shape: MatmulShape;
  readonly n: number;
  readonly x: Float32Array;
  readonly buffers: readonly Elements[];
  /** The table as floats, [m, stride of k]. */
  readonly table: ArrayLike<number>;
}

function problem(m: number, k: number, n: number, elem: MatmulShape['elem']): Problem {
  const x = randomFloats(k, n * k);
  const out = new Float32Array(n * rowStride(m));
  const rows = padRows(randomFloats(m + k, m * k), k, 0);
  const stored = storeFloats(rows, elem);
  const table = stored instanceof Uint16Array ? widenHalves(stored, elem as 'f16') : stored;
  return {
    shape: { m, k, elem },
    n,
    x,
    table,
    buffers: [padRows(x, k), stored, out],
  };
}

/** Dots in float64 and how far from them the result may be. */
function dots({ shape: { m, k }, n, x, table }: Problem) {
  // A partial sum has k/32 roundings, a product one, the sum of the parts five.
  const rounding = (k / 32 + 7) * 2 ** -24;
  const all: { dot: number; error: number }[] = [];
  for (let t = 0; t < n; t++) {
    for (let row = 0; row < m; row++) {
      let [dot, error] = [0, 0];
      for (let i = 0; i < k; i++) {
        const weight = table[row * rowStride(k) + i]!;
        dot += x[t * k + i]! * weight;
        error += Math.abs(weight) * rounding * Math.abs(x[t * k + i]!);
      }
      all.push({ dot, error });
    }
  }
  return all;
}

describe('matmul', () => {
  const sizes = [
    { m: 1, k: 1 },
    { m: 33, k: 50 },
    { m: 70, k: 64 },
    { m: 9, k: 200 },
    // More columns than tiles of several tokens take at a time.
    { m: 3, k: 2100 },
  ];
  const cases = ELEMS.flatMap((elem) => sizes.map((size) => ({ elem, ...size })));

  it.each(cases)('of $m x $k $elem is close to float64', ({ elem, m, k }) => {
    for (const n of [1, 5]) {
      const p = problem(m, k, n, elem);
      const out = cropRows(runEverywhere(matmul, p.shape, p.buffers, [n]).at(-1)!, m);
      dots(p).forEach(({ dot, error }, i) => {
        expect(Math.abs(out[i]! - dot)).toBeLessThanOrEqual(error);
      });
    }
  });

  it.each(ELEMS)('of %s is the same in every schedule and however tokens are batched', (elem) => {
    const p = problem(45, 100, 7, elem);
    const together = cropRows(runSchedules(matmul, p.shape, p.buffers, [7]).at(-1)!, 45);
    const apart: number[] = [];
    for (let t = 0; t < 7; t++) {
      const [, ...rest] = p.buffers;
      const alone = padRows(p.x.subarray(t * 100, (t + 1) * 100), 100);
      const buffers = [alone, ...rest.slice(0, -1), new Float32Array(rowStride(45))];
      apart.push(...cropRows(runDefault(matmul, p.shape, buffers, [1]).at(-1)!, 45));
    }
    expect(together).toEqual(apart);
  });

  it('leaves the padding of the output alone', () => {
    const p = problem(33, 50, 1, 'bf16');
    const out = new Float32Array(64).fill(7);
    const result = runEverywhere(matmul, p.shape, [...p.buffers.slice(0, -1), out], [1]).at(-1)!;
    expect([...result.subarray(33)]).toEqual(Array(31).fill(7));
  });
});

describe('matmul.rows', () => {
  it.each(['f32', 'f16', 'bf16'] as const)('of %s has the bits of matmul', (elem) => {
    const [m, k, n] = [50, 130, 3];
    const p = problem(m, k, n, elem);
    const all = runDefault(matmul, p.shape, p.buffers, [n]).at(-1)!;
    const pairs = Int32Array.from(randomInts(7, 2 * 40, 0, m - 1), (v, i) => (i % 2 === 0 ? v % n : v));
    const [x, table] = p.buffers;
    const buffers = [x!, table!, pairs, new Float32Array(40)];
    const found = runEverywhere(matmulRows, { k, elem }, buffers, [40]).at(-1)!;
    const expected = found.map((_, i) => all[pairs[2 * i]! * rowStride(m) + pairs[2 * i + 1]!]!);
    expect(found).toEqual(expected);
  });
});
