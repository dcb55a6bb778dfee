import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { packBitPlanes } from '../encodings/bit-planes.ts';
import { groupLanesLength, packCodeTiles } from '../encodings/code-tiles.ts';
import type { CodeBits } from '../graph/ir.ts';
import type { GroupShape } from './group/shape.ts';
import { groupLut } from './group-lut.ts';
import { groupMatmul } from './group-matmul.ts';
import { groupPopcount } from './group-popcount.ts';
import { rowStride } from './kernel.ts';
import type { LutShape } from './lut/shape.ts';
import { isBytes, lutTables, tableBytes } from './lut/tables.ts';
import {
  activationPlanes,
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

const BASE: LutShape = {
  m: 20,
  k: 192,
  bits: 2,
  group: 64,
  activationGroup: 64,
  zero: 2,
  zeros: 'none',
  scales: 'f32',
  to: 'int8',
  residual: false,
  batch: 'one',
  encoding: 'bit-planes',
  tables: 'exact',
};

interface Problem {
  readonly shape: LutShape;
  readonly n: number;
  readonly codes: readonly number[];
  /** Activations, and these as kernels read them. */
  readonly q: readonly number[];
  readonly rows: Int8Array;
  readonly scale: Float32Array;
  /** From the sums of activations on. */
  readonly others: readonly Elements[];
}

const ceil = (a: number, b: number) => Math.ceil(a / b);

function problem(seed: number, n: number, shape: LutShape, extreme = false): Problem {
  const { m, k, bits, group, activationGroup, zeros, to, residual } = shape;
  const parts = ceil(k, activationGroup);
  // Of sums, 4 adjacent columns share 255.
  const limit = { int8: 127, int16: 16256, sums: 63 }[to];
  const codes = randomInts(seed, m * k, 0, 2 ** bits - 1).map((c) => (extreme ? 2 ** bits - 1 : c));
  const q = randomInts(seed + 1, n * k, -limit, limit).map((x, i) =>
    extreme ? (i < k ? limit : -limit) : x,
  );
  const sums = new Float32Array(n * parts);
  for (const [i, value] of q.entries()) {
    sums[Math.floor(i / k) * parts + Math.floor((i % k) / activationGroup)]! += value;
  }
  const lanes = groupLanesLength(m, ceil(k, group));
  const zeroLanes =
    zeros === 'u8'
      ? Uint8Array.from(randomInts(seed + 5, lanes, 0, 2 ** bits - 1))
      : randomFloats(seed + 5, lanes);
  return {
    shape,
    n,
    codes,
    q,
    rows: activationPlanes(q, k, to),
    scale: randomFloats(seed + 2, n * parts).map(Math.abs),
    others: [
      Int32Array.from(padRows(sums, parts, 0)),
      randomFloats(seed + 3, lanes),
      ...(residual ? [padRows(randomFloats(seed + 4, n * m), m)] : []),
      ...(zeros === 'none' ? [] : [zeroLanes]),
      new Float32Array(n * rowStride(m)),
    ],
  };
}

const weightOf = ({ shape: { m, k, bits }, codes }: Problem) => ({
  kind: 'codes' as const,
  bits: bits as CodeBits,
  rows: m,
  cols: k,
  blocks: [{ rows: m, codes: Uint8Array.from(codes) }],
});

function madBuffers(p: Problem): Elements[] {
  const [sums, ...rest] = p.others;
  const scale = padRows(p.scale, ceil(p.shape.k, p.shape.activationGroup));
  return [p.rows, scale, sums!, packCodeTiles(weightOf(p)), ...rest];
}

const madShape = ({ tables: _, ...shape }: LutShape): GroupShape => ({ ...shape, encoding: 'code-tiles' });

function tablesBuffers({ shape, rows, n }: Problem): Elements[] {
  const parts = ceil(shape.k, shape.activationGroup);
  const bias = isBytes(shape.tables) ? [new Int32Array(n * rowStride(parts))] : [];
  return [rows, new Int8Array(n * tableBytes(shape)), ...bias];
}

const tablesShape = ({ k, activationGroup, to, tables }: LutShape) => ({ k, activationGroup, to, tables });

/** Where family `lut` has tables, and then what `mad` has. */
function lutBuffers(p: Problem): Elements[] {
  const [, tables, ...bias] = runDefault(lutTables, tablesShape(p.shape), tablesBuffers(p), [p.n]);
  const [q, activationScale, sums, , ...rest] = madBuffers(p);
  return [tables!, ...bias, q!, activationScale!, sums!, packBitPlanes(weightOf(p)), ...rest];
}

const shapes = fc
  .record({
    m: fc.integer({ min: 1, max: 80 }),
    k: fc.integer({ min: 1, max: 300 }),
    bits: fc.constantFrom(1, 2, 3, 4),
    activationGroup: fc.constantFrom(32, 64, 128, 256),
    groups: fc.constantFrom(1, 2, 'row' as const),
    zeros: fc.constantFrom('none', 'u8', 'f32'),
    to: fc.constantFrom('int8', 'int16', 'sums'),
    residual: fc.boolean(),
  })
  .map(({ groups, ...shape }): LutShape => {
    const group = groups === 'row' ? shape.k : groups * shape.activationGroup;
    const zero = shape.zeros !== 'none' ? 0 : shape.bits === 1 ? 0.5 : 2 ** (shape.bits - 1);
    return { ...BASE, ...shape, group, zero };
  });

const result = (buffers: readonly Elements[], m: number) => cropRows(buffers.at(-1)!, m);

describe('lowbit.matmul.group by exact tables', () => {
  it('has the bits of family mad on random shapes, on every kind of machine, in both forms', () => {
    fc.assert(
      fc.property(shapes, fc.constantFrom(1, 2, 6), fc.nat(1e6), (shape, n, seed) => {
        const p = problem(seed, n, shape);
        const expected = result(runDefault(groupMatmul, madShape(shape), madBuffers(p), [n]), shape.m);
        for (const batch of ['one', 'many'] as const) {
          const found = runEverywhere(groupLut, { ...shape, batch }, lutBuffers(p), [n]);
          expect(result(found, shape.m)).toEqual(expected);
        }
      }),
      { numRuns: 6, seed: 1 },
    );
  });

  it.each([1, 2, 3, 4])('has them in every schedule, of %i bits', (bits) => {
    const to = bits % 2 === 0 ? 'int8' : 'int16';
    const shape = { ...BASE, bits, to, k: 64, m: 18 } as const;
    for (const [batch, n] of [
      ['one', 1],
      ['many', 5],
    ] as const) {
      const p = problem(bits, n, { ...shape, batch });
      const expected = result(runDefault(groupMatmul, madShape(p.shape), madBuffers(p), [n]), 18);
      expect(result(runSchedules(groupLut, p.shape, lutBuffers(p), [n]), 18)).toEqual(expected);
    }
  });

  it.each([1, 2, 3, 4])('overflows nowhere with extreme values, of %i bits', (bits) => {
    for (const to of ['int8', 'int16'] as const) {
      for (const batch of ['one', 'many'] as const) {
        const shape = { ...BASE, m: 4, k: 256, bits, to, group: 256, activationGroup: 256, zero: 0, batch };
        const p = problem(bits, 2, shape, true);
        const expected = result(runDefault(groupMatmul, madShape(shape), madBuffers(p), [2]), 4);
        for (const m of MACHINES) {
          const fn = groupLut.build('kernel', shape, groupLut.defaultSchedule(shape, m));
          expect(result(runCopies(fn, lutBuffers(p), [2]), 4)).toEqual(expected);
        }
      }
    }
  });

  it('refuses what it cannot compute', () => {
    const build = (change: Partial<LutShape>) => {
      const shape = { ...BASE, ...change };
      return groupLut.build('kernel', shape, groupLut.defaultSchedule(shape, MACHINES[0]!));
    };
    expect(() => build({ encoding: 'code-tiles' })).toThrow(LutraError);
    expect(() => build({ bits: 8 })).toThrow('cannot read codes of 8 bits');
    expect(() => build({ activationGroup: 48 })).toThrow('cannot take activations in groups of 48');
    expect(() => build({ group: 96 })).toThrow('cannot take weights in groups of 96');
  });
});

describe('lowbit.matmul.group by counting bits', () => {
  it('has the bits of family mad on random shapes, on every kind of machine, in both forms', () => {
    fc.assert(
      fc.property(shapes, fc.constantFrom(1, 3), fc.nat(1e6), fc.boolean(), (shape, n, seed, extreme) => {
        const p = problem(seed, n, { ...shape, tables: 'bits' }, extreme);
        const expected = result(runDefault(groupMatmul, madShape(p.shape), madBuffers(p), [n]), shape.m);
        for (const batch of ['one', 'many'] as const) {
          const found = runEverywhere(groupPopcount, { ...p.shape, batch }, lutBuffers(p), [n]);
          expect(result(found, shape.m)).toEqual(expected);
        }
      }),
      { numRuns: 5, seed: 1 },
    );
  });
});

describe('lowbit.matmul.group by tables of bytes', () => {
  it('has the bits of family mad on random shapes, on every kind of machine, in both forms', () => {
    fc.assert(
      fc.property(shapes, fc.constantFrom(1, 3), fc.nat(1e6), fc.boolean(), (shape, n, seed, extreme) => {
        const p = problem(seed, n, { ...shape, to: 'sums', tables: 'int8' }, extreme);
        const expected = result(runDefault(groupMatmul, madShape(p.shape), madBuffers(p), [n]), shape.m);
        for (const batch of ['one', 'many'] as const) {
          const found = runEverywhere(groupLut, { ...p.shape, batch }, lutBuffers(p), [n]);
          expect(result(found, shape.m)).toEqual(expected);
        }
      }),
      { numRuns: 5, seed: 1 },
    );
  });

  it.each([1, 2, 3, 4])('has them in every schedule, of %i bits', (bits) => {
    const p = problem(bits, 1, { ...BASE, tables: 'int8', to: 'sums', bits, k: 64, m: 18 });
    const expected = result(runDefault(groupMatmul, madShape(p.shape), madBuffers(p), [1]), 18);
    expect(result(runSchedules(groupLut, p.shape, lutBuffers(p), [1]), 18)).toEqual(expected);
  });

  it('refuses activations whose sums fit no byte', () => {
    const shape = { ...BASE, tables: 'int8' } as const;
    const schedule = groupLut.defaultSchedule(shape, MACHINES[0]!);
    expect(() => groupLut.build('kernel', shape, schedule)).toThrow('cannot look up activations of int8');
    expect(() => lutTables.build('kernel', tablesShape(shape), { vector: true, mirror: false })).toThrow(
      'cannot put activations of int8 into bytes',
    );
  });
});

/** Mean squared error of `fast` tables against the exact dots, normalized, of weights and activations at random. */
function normalizedError(bits: number): number {
  const k = 1024;
  const groups = { group: 128, activationGroup: 64, zero: (2 ** bits - 1) / 2 };
  const shape = { ...BASE, ...groups, tables: 'fast', to: 'sums', bits, m: 64, k } as const;
  const p = problem(7 * bits, 1, shape);
  const expected = result(runDefault(groupMatmul, madShape(shape), madBuffers(p), [1]), 64);
  const found = result(runDefault(groupLut, shape, lutBuffers(p), [1]), 64);
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  return sum(found.map((y, i) => (y - expected[i]!) ** 2)) / sum(expected.map((y) => y * y));
}

describe('lowbit.matmul.group by means of lookups', () => {
  it.each([1, 2, 3, 4])('errs little, of %i bits', (bits) => {
    const error = normalizedError(bits);
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(8e-4);
  });

  it('has the same bits on every kind of machine, in every schedule, alone and among other tokens', () => {
    fc.assert(
      fc.property(shapes, fc.nat(1e6), (shape, seed) => {
        const p = problem(seed, 2, { ...shape, to: 'sums', tables: 'fast' });
        const one = result(runEverywhere(groupLut, p.shape, lutBuffers(p), [2]), shape.m);
        const many = runEverywhere(groupLut, { ...p.shape, batch: 'many' }, lutBuffers(p), [2]);
        expect(result(many, shape.m)).toEqual(one);
        const first = runDefault(groupLut, p.shape, lutBuffers(p), [1]);
        expect(result(first, shape.m).slice(0, shape.m)).toEqual(one.slice(0, shape.m));
      }),
      { numRuns: 3, seed: 1 },
    );
    const p = problem(3, 1, { ...BASE, tables: 'fast', to: 'sums', bits: 4, k: 64, m: 18 });
    runSchedules(groupLut, p.shape, lutBuffers(p), [1]);
  });
});

describe('lut.tables', () => {
  it('has every sum of 4 activations, in 5 bits twice', () => {
    const p = problem(1, 2, { ...BASE, k: 70, to: 'int16' });
    const [, tables] = runEverywhere(lutTables, tablesShape(p.shape), tablesBuffers(p), [2]);
    p.rows.forEach((_, i) => {
      if (i % 4 !== 0) return;
      for (let e = 0; e < 16; e++) {
        const sum = [0, 1, 2, 3].reduce((s, j) => s + ((e >> j) & 1) * p.rows[i + j]!, 0);
        expect(tables![8 * i + e]! + 32 * tables![8 * i + 16 + e]!).toBe(sum + 512);
      }
    });
    runSchedules(lutTables, tablesShape(p.shape), tablesBuffers(p), [2]);
  });

  it('has bits of activations', () => {
    const p = problem(4, 2, { ...BASE, k: 70, to: 'int16', tables: 'bits' });
    const [, tables] = runEverywhere(lutTables, tablesShape(p.shape), tablesBuffers(p), [2]);
    p.rows.forEach((value, i) => {
      const column = i % 64;
      for (let bit = 0; bit < 8; bit++) {
        const byte = tables![i - column + 8 * bit + (column >> 3)]!;
        expect((byte >> (column & 7)) & 1).toBe((value >> bit) & 1);
      }
    });
  });

  it('has every sum of 4 activations in a byte, less half of all 4', () => {
    for (const extreme of [false, true]) {
      const p = problem(2, 2, { ...BASE, k: 96, to: 'sums', tables: 'int8' }, extreme);
      const [, tables, bias] = runEverywhere(lutTables, tablesShape(p.shape), tablesBuffers(p), [2]);
      runSchedules(lutTables, tablesShape(p.shape), tablesBuffers(p), [2]);
      const bytes = new Uint8Array(tables!.buffer);
      const added = [0, 0, 0, 0];
      for (let at = 0; at < p.rows.length; at += 4) {
        const four = [...p.rows.subarray(at, at + 4)];
        const bias = 127 - Math.floor(four.reduce((a, b) => a + b) / 2);
        for (let e = 0; e < 16; e++) {
          const exact = four.reduce((s, x, j) => s + ((e >> j) & 1) * x, 0);
          expect(bytes[4 * at + e]).toBe(exact + bias);
        }
        added[2 * Math.floor(at / 128) + Math.floor((at % 128) / 64)]! += bias;
      }
      expect([0, 1, 64, 65].map((part) => bias![part])).toEqual(added);
    }
  });
});
