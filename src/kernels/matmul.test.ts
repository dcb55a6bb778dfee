import { describe, expect, it } from 'vitest';
import { widenHalves } from '../common/halves.ts';
import { rowStride } from './kernel.ts';
import { type MatmulShape, matmul } from './matmul.ts';
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

/** Dots in float64, and the sum of magnitudes that bounds their error. */
function dots({ shape: { m, k }, n, x, table, rowScale }: Problem) {
  const all: { dot: number; magnitude: number }[] = [];
  for (let t = 0; t < n; t++) {
    for (let row = 0; row < m; row++) {
      let [dot, magnitude] = [0, 0];
      for (let i = 0; i < k; i++) {
        const product = x[t * k + i]! * table[row * rowStride(k) + i]! * rowScale[row]!;
        dot += product;
        magnitude += Math.abs(product);
      }
      all.push({ dot, magnitude });
    }
  }
  return all;
}

describe('matmul', () => {
  const sizes = [
    { m: 1, k: 1 },
    { m: 33, k: 50 },
    { m: 70, k: 64 },
    { m: 39, k: 200 },
  ];
  const cases = ELEMS.flatMap((elem) => sizes.map((size) => ({ elem, ...size })));

  it.each(cases)('of $m x $k $elem is close to float64', ({ elem, m, k }) => {
    for (const n of [1, 5]) {
      const p = problem(m, k, n, elem);
      const out = cropRows(runEverywhere(matmul, p.shape, p.buffers, [n]).at(-1)!, m);
      // A partial sum has k/16 roundings, the product one, the sum of the parts four.
      const unit = (k / 16 + 6) * 2 ** -24;
      dots(p).forEach(({ dot, magnitude }, i) => {
        expect(Math.abs(out[i]! - dot)).toBeLessThanOrEqual(unit * magnitude);
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
