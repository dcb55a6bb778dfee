import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import { runFunction } from '../loops/interpret.ts';
import { rowStride } from './kernel.ts';
import type { LowbitShape } from './lowbit.ts';
import { lowbitMatmul } from './lowbit-matmul.ts';
import {
  bytesOf,
  cropRows,
  MACHINES,
  padRows,
  randomFloats,
  randomInts,
  runEverywhere,
  runSchedules,
} from './testing.ts';

/** Trits as the layout `i2` says, one at a time. */
function packI2(trits: readonly number[], m: number, k: number): Uint8Array {
  const [rows, columns] = [alignUp(m, 64), alignUp(k, 64)];
  const bytes = new Uint8Array((rows * columns) / 4);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const trit = row < m && column < k ? trits[row * k + column]! : 0;
      const tile = Math.floor(row / 16) * (columns / 16) + Math.floor(column / 16);
      const byte = tile * 64 + 4 * (row % 16) + (column % 4);
      bytes[byte]! |= (trit + 1) << (2 * Math.floor((column % 16) / 4));
    }
  }
  return bytes;
}

/** Trits as the layout `t5b` says, one at a time. */
function packT5b(trits: readonly number[], m: number, k: number): Uint8Array {
  const tiles = Math.ceil(alignUp(k, 64) / 20);
  const bytes = new Uint8Array((alignUp(m, 64) / 16) * tiles * 64);
  for (let row = 0; row < alignUp(m, 64); row++) {
    for (let column = 0; column < 20 * tiles; column++) {
      const trit = row < m && column < k ? trits[row * k + column]! : 0;
      const tile = Math.floor(row / 16) * tiles + Math.floor(column / 20);
      const weight = [81, 1, 3, 9, 27][Math.floor((column % 20) / 4)]!;
      bytes[tile * 64 + 4 * (row % 16) + (column % 4)]! += weight * (trit + 1);
    }
  }
  return bytes;
}

const ENCODINGS = ['i2', 't5b'] as const;
type Encoding = (typeof ENCODINGS)[number];

interface Problem {
  readonly m: number;
  readonly k: number;
  readonly n: number;
  readonly residual: boolean;
  readonly trits: readonly number[];
  readonly q: readonly number[];
  readonly scale: Float32Array;
  readonly weightScale: Float32Array;
  readonly start: Float32Array;
}

function problem(seed: number, m: number, k: number, n: number, residual: boolean): Problem {
  return {
    m,
    k,
    n,
    residual,
    trits: randomInts(seed, m * k, -1, 1),
    q: randomInts(seed + 1, n * k, -128, 127),
    scale: randomFloats(seed + 2, n),
    weightScale: randomFloats(seed + 3, rowStride(m)),
    start: randomFloats(seed + 4, n * m),
  };
}

function buffersOf({ m, k, n, residual, trits, q, scale, weightScale, start }: Problem, encoding: Encoding) {
  const pack = encoding === 'i2' ? packI2 : packT5b;
  const rows = new Int8Array(n * rowStride(k));
  q.forEach((value, i) => {
    rows[Math.floor(i / k) * rowStride(k) + (i % k)] = value;
  });
  const sums = Int32Array.from({ length: n }, (_, t) =>
    q.slice(t * k, (t + 1) * k).reduce((sum, value) => sum + value, 0),
  );
  const out = new Float32Array(n * rowStride(m));
  const residuals = residual ? [padRows(start, m)] : [];
  return [rows, scale, sums, pack(trits, m, k), weightScale, ...residuals, out];
}

/** Exact integers, then one rounding per float operation. */
function expected({ m, k, n, residual, trits, q, scale, weightScale, start }: Problem): number[] {
  const y: number[] = [];
  for (let t = 0; t < n; t++) {
    for (let row = 0; row < m; row++) {
      let dot = 0;
      for (let i = 0; i < k; i++) dot += trits[row * k + i]! * q[t * k + i]!;
      const scaled = Math.fround(Math.fround(Math.fround(dot) * weightScale[row]!) * scale[t]!);
      y.push(residual ? Math.fround(start[t * m + row]! + scaled) : scaled);
    }
  }
  return y;
}

const shapeOf = (
  { m, k, residual }: Problem,
  batch: LowbitShape['batch'],
  encoding: Encoding,
): LowbitShape => ({
  m,
  k,
  residual,
  batch,
  encoding,
});

describe.each(ENCODINGS)('lowbit.matmul of %s', (encoding) => {
  it('is exact on random shapes, on every kind of machine, in both forms', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 80 }),
        fc.integer({ min: 1, max: 300 }),
        fc.constantFrom(1, 2, 5, 17),
        fc.boolean(),
        fc.nat(1e6),
        (m, k, n, residual, seed) => {
          const p = problem(seed, m, k, n, residual);
          const y = expected(p);
          for (const batch of ['one', 'many'] as const) {
            const out = runEverywhere(lowbitMatmul, shapeOf(p, batch, encoding), buffersOf(p, encoding), [
              n,
            ]).at(-1)!;
            expect(cropRows(out, m)).toEqual(y);
          }
        },
      ),
      { seed: 1, numRuns: 8 },
    );
  });

  it.each([
    ['one', 1],
    ['many', 3],
    ['many', 13],
  ] as const)('is exact in every schedule (%s, %d tokens)', (batch, n) => {
    const p = problem(7, 40, 200, n, true);
    const out = runSchedules(lowbitMatmul, shapeOf(p, batch, encoding), buffersOf(p, encoding), [p.n]).at(
      -1,
    )!;
    expect(cropRows(out, p.m)).toEqual(expected(p));
  });

  it('does not overflow on the largest codes and activations', () => {
    for (const value of [-128, 127]) {
      const p = {
        ...problem(3, 16, 600, 6, false),
        q: Array(3600).fill(value),
        trits: Array(9600).fill(1),
      };
      for (const batch of ['one', 'many'] as const) {
        const out = runEverywhere(lowbitMatmul, shapeOf(p, batch, encoding), buffersOf(p, encoding), [6]).at(
          -1,
        )!;
        expect(cropRows(out, 16)).toEqual(expected(p));
      }
    }
  });

  it('may write where it reads the residual', () => {
    const p = problem(11, 64, 128, 7, true);
    const buffers = buffersOf(p, encoding);
    const fn = lowbitMatmul.build(
      'f',
      shapeOf(p, 'many', encoding),
      lowbitMatmul.defaultSchedule(shapeOf(p, 'many', encoding), MACHINES[2]!),
    );
    const shared = bytesOf(buffers[5]!);
    const all = buffers.map(bytesOf);
    runFunction(fn, { buffers: [...all.slice(0, 5), shared, shared], scalars: [7] });
    expect(cropRows(buffers[5]!, 64)).toEqual(expected(p));
  });

  it('refuses what it cannot compute', () => {
    const shape = shapeOf(problem(1, 1, 1, 1, false), 'one', encoding);
    const build = (more: Partial<LowbitShape>) =>
      lowbitMatmul.build('f', { ...shape, ...more }, lowbitMatmul.defaultSchedule(shape, MACHINES[0]!));
    expect(() => build({ encoding: 'i4' })).toThrow(LutraError);
    expect(() => build({ k: 1e6 })).toThrow(LutraError);
  });
});
