import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { packBitPlanes } from '../encodings/bit-planes.ts';
import { ternaryCodes } from '../encodings/ternary-blocks.ts';
import { packI2 } from '../encodings/ternary-i2.ts';
import { alternatives } from './alternatives.ts';
import { rowStride } from './kernel.ts';
import type { LowbitShape } from './lowbit.ts';
import { lowbitLut, rowTables } from './lowbit-lut.ts';
import { lowbitMatmul } from './lowbit-matmul.ts';
import { lutTables, tableBytes } from './lut/tables.ts';
import {
  cropRows,
  type Elements,
  MACHINES,
  padRows,
  randomFloats,
  randomInts,
  runCopies,
  runDefault,
  runEverywhere,
  runSchedules,
} from './testing.ts';

const BASE: LowbitShape = { m: 20, k: 192, residual: false, batch: 'one', encoding: 'bit-planes' };

interface Problem {
  readonly shape: LowbitShape;
  readonly n: number;
  readonly trits: Int8Array;
  readonly rows: Int8Array;
  readonly scale: Float32Array;
  readonly sums: Int32Array;
  /** From the scales of rows on. */
  readonly others: readonly Elements[];
}

/** With `extreme`, all trits and activations have the largest magnitude that they can have. */
function problem(seed: number, n: number, shape: LowbitShape, extreme?: number): Problem {
  const { m, k, residual } = shape;
  const q = randomInts(seed, n * k, -128, 127).map((x) => extreme ?? x);
  const rows = new Int8Array(n * rowStride(k));
  const sums = new Int32Array(n);
  q.forEach((value, i) => {
    const token = Math.floor(i / k);
    rows[token * rowStride(k) + (i % k)] = value;
    sums[token]! += value;
  });
  return {
    shape,
    n,
    trits: Int8Array.from(randomInts(seed + 1, m * k, -1, 1), (t) => (extreme === undefined ? t : 1)),
    rows,
    scale: randomFloats(seed + 2, n).map(Math.abs),
    sums,
    others: [
      randomFloats(seed + 3, rowStride(m)),
      ...(residual ? [padRows(randomFloats(seed + 4, n * m), m)] : []),
      new Float32Array(n * rowStride(m)),
    ],
  };
}

function weightOf({ shape: { m, k }, trits }: Problem) {
  return {
    kind: 'ternary' as const,
    rows: m,
    cols: k,
    blocks: [{ form: 'trits' as const, rows: m, trits }],
  };
}

function madResult(p: Problem): number[] {
  const buffers = [p.rows, p.scale, p.sums, packI2(weightOf(p)), ...p.others];
  return result(runDefault(lowbitMatmul, { ...p.shape, encoding: 'i2' }, buffers, [p.n]), p);
}

function lutBuffers(p: Problem): Elements[] {
  const form = rowTables(p.shape.k);
  const [, tables] = runDefault(lutTables, form, [p.rows, new Int8Array(p.n * tableBytes(form))], [p.n]);
  return [tables!, p.rows, p.scale, p.sums, packBitPlanes(ternaryCodes(weightOf(p))), ...p.others];
}

const result = (buffers: readonly Elements[], { shape: { m } }: Problem) => cropRows(buffers.at(-1)!, m);

describe('lowbit.matmul by tables', () => {
  it('has the bits of family mad on random shapes, on every kind of machine, in both forms', () => {
    const shapes = fc.record({
      m: fc.integer({ min: 1, max: 80 }),
      k: fc.integer({ min: 1, max: 300 }),
      residual: fc.boolean(),
    });
    fc.assert(
      fc.property(shapes, fc.constantFrom(1, 2, 6), fc.nat(1e6), (some, n, seed) => {
        const p = problem(seed, n, { ...BASE, ...some });
        const expected = madResult(p);
        for (const batch of ['one', 'many'] as const) {
          const found = runEverywhere(lowbitLut, { ...p.shape, batch }, lutBuffers(p), [n]);
          expect(result(found, p)).toEqual(expected);
        }
      }),
      { numRuns: 4, seed: 1 },
    );
  });

  it.each([
    ['one', 1],
    ['many', 5],
  ] as const)('has them in every schedule (%s, %d tokens)', (batch, n) => {
    const p = problem(7, n, { ...BASE, k: 128, residual: true, batch });
    expect(result(runSchedules(lowbitLut, p.shape, lutBuffers(p), [n]), p)).toEqual(madResult(p));
  });

  // Rows longer than what words hold are added up in parts, the last of which may be shorter.
  it.each([2816, 2880, 5700])('overflows nowhere in %i columns of extreme values', (k) => {
    for (const extreme of [-128, 127]) {
      const p = problem(k, 1, { ...BASE, m: 3, k }, extreme);
      const expected = madResult(p);
      for (const machine of MACHINES.filter(({ vectorBytes }) => vectorBytes !== 16)) {
        const fn = lowbitLut.build('kernel', p.shape, lowbitLut.defaultSchedule(p.shape, machine));
        expect(result(runCopies(fn, lutBuffers(p), [1]), p)).toEqual(expected);
      }
    }
  });

  it('refuses what it cannot compute', () => {
    const build = (change: Partial<LowbitShape>) => {
      const shape = { ...BASE, ...change };
      return lowbitLut.build('kernel', shape, lowbitLut.defaultSchedule(shape, MACHINES[0]!));
    };
    expect(() => build({ encoding: 'i2' })).toThrow('cannot read weights encoded as i2');
    expect(() => build({ k: 1 << 22 })).toThrow('is exact up to 2097152 columns');
  });

  it('is one of the ways to compute the product', () => {
    const ways = alternatives({ op: 'lowbit.matmul', family: 'mad', shape: { ...BASE, encoding: 'i2' } });
    expect(ways.map(({ family, shape, before }) => [family, shape.encoding, before?.op])).toEqual([
      ['mad', 'i2', undefined],
      ['mad', 't5b', undefined],
      ['lut', 'bit-planes', 'lut.tables'],
    ]);
    const [{ before, ...given }, ...others] = alternatives(ways[2]!) as [(typeof ways)[2], ...typeof ways];
    expect({ ...given, before }).toEqual(ways[2]);
    expect(others).toEqual(ways.slice(0, 2));
  });
});
