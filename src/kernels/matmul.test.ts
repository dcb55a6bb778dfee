import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { widenHalves } from '../common/halves.ts';
import { rowStride } from './kernel.ts';
import { type MatmulShape, matmul, matmulRows } from './matmul.ts';
import {
  cropRows,
  type Elements,
  MACHINES,
  padRows,
  randomFloats,
  randomInts,
  runDefault,
  runEverywhere,
  runSchedules,
  storeFloats,
} from './testing.ts';

const ELEMS = ['f32', 'f16', 'bf16', 'i8'] as const;

interface Problem {
  readonly shape: MatmulShape;
  readonly n: number;
  readonly x: Float32Array;
  readonly buffers: readonly Elements[];
  /** The table as floats, [m, stride of k]. */
  readonly table: ArrayLike<number>;
  readonly rowScale: Float32Array;
}

function problem(m: number, k: number, n: number, elem: MatmulShape['elem']): Problem {
  const x = randomFloats(k, n * k);
  const rowScale = randomFloats(m, rowStride(m));
  const out = new Float32Array(n * rowStride(m));
  const rows = padRows(randomFloats(m + k, m * k), k, 0);
  if (elem === 'i8') {
    const table = Int8Array.from(randomInts(m, m * rowStride(k), -127, 127));
    return { shape: { m, k, elem }, n, x, table, rowScale, buffers: [padRows(x, k), table, rowScale, out] };
  }
  const stored = storeFloats(rows, elem);
  const table = stored instanceof Uint16Array ? widenHalves(stored, elem as 'f16') : stored;
  return {
    shape: { m, k, elem },
    n,
    x,
    table,
    rowScale: rowScale.fill(1),
    buffers: [padRows(x, k), stored, out],
  };
}

/** Dots in float64 and how far from them the result may be. */
function dots({ shape: { m, k, elem }, n, x, table, rowScale }: Problem) {
  // A partial sum has k/32 roundings, a product one, the sum of the parts five.
  const rounding = (k / 32 + 7) * 2 ** -24;
  const all: { dot: number; error: number }[] = [];
  for (let t = 0; t < n; t++) {
    const peak = Math.max(...x.subarray(t * k, (t + 1) * k).map(Math.abs));
    // int8: every activation is off by up to half a unit.
    const halfUnit = elem === 'i8' ? (peak / 16383) * 0.5001 : 0;
    for (let row = 0; row < m; row++) {
      let [dot, error] = [0, 0];
      for (let i = 0; i < k; i++) {
        const weight = table[row * rowStride(k) + i]! * rowScale[row]!;
        dot += x[t * k + i]! * weight;
        error += Math.abs(weight) * (rounding * Math.abs(x[t * k + i]!) + halfUnit);
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
    { m: 34, k: 200 },
    { m: 5, k: 1070 },
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

  it('of int8 does not overflow on the largest weights and activations', () => {
    const k = 32768;
    const x = new Float32Array(k).fill(-3);
    const buffers = [x, new Int8Array(k).fill(-128), Float32Array.of(1), new Float32Array(64)];
    const out = runDefault(matmul, { m: 1, k, elem: 'i8' }, buffers, [1]).at(-1)!;
    expect(Math.abs(out[0]! / (3 * 128 * k) - 1)).toBeLessThan(1e-6);
    expect(() =>
      matmul.build(
        'f',
        { m: 1, k: k + 1, elem: 'i8' },
        matmul.defaultSchedule({ m: 1, k, elem: 'i8' }, MACHINES[0]!),
      ),
    ).toThrow(LutraError);
  });

  it('of int8 takes rows of zeros and of NaN', () => {
    const x = Float32Array.of(0, 0, Number.NaN, 1);
    const table = new Int8Array(64);
    table.set([3, 5]);
    const buffers = [padRows(x, 2), table, Float32Array.of(1), new Float32Array(128)];
    const out = runEverywhere(matmul, { m: 1, k: 2, elem: 'i8' }, buffers, [2]).at(-1)!;
    expect([out[0], out[64]]).toEqual([0, 2]);
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
