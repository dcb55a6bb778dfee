import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { narrowFloats } from '../common/halves.ts';
import { groupLanesLength, packCodeTiles, packGroupLanes } from '../encodings/code-tiles.ts';
import type { CodeBits } from '../graph/ir.ts';
import type { GroupShape } from './group/shape.ts';
import { groupMatmul } from './group-matmul.ts';
import { rowStride } from './kernel.ts';
import {
  activationPlanes,
  cropRows,
  type Elements,
  MACHINES,
  padRows,
  randomFloats,
  randomHalves,
  randomInts,
  runCopies,
  runEverywhere,
  runSchedules,
} from './testing.ts';

interface Problem {
  readonly shape: GroupShape;
  readonly n: number;
  readonly codes: readonly number[];
  readonly q: readonly number[];
  readonly scale: Float32Array;
  readonly weightScale: Float32Array;
  readonly zeros: Float32Array;
  readonly start: Float32Array;
}

const ceil = (a: number, b: number) => Math.ceil(a / b);

function problem(seed: number, n: number, shape: GroupShape): Problem {
  const { m, k, bits, group, activationGroup, zeros, to } = shape;
  const groups = ceil(k, group);
  const limit = to === 'int8' ? 127 : 16256;
  const integers = Float32Array.from(randomInts(seed + 5, m * groups, 0, Math.min(255, 2 ** bits)));
  return {
    shape,
    n,
    codes: randomInts(seed, m * k, 0, 2 ** bits - 1),
    q: randomInts(seed + 1, n * k, -limit, limit),
    scale: randomFloats(seed + 2, n * ceil(k, activationGroup)),
    weightScale: randomHalves(seed + 3, m * groups),
    zeros: zeros === 'u8' ? integers : randomHalves(seed + 5, m * groups),
    start: randomFloats(seed + 4, n * m),
  };
}

function lanes(values: Float32Array, kind: 'u8' | 'f16' | 'f32', m: number): Elements {
  const groups = values.length / m;
  const length = groupLanesLength(m, groups);
  if (kind === 'f32') return packGroupLanes(values, m, groups, new Float32Array(length));
  if (kind === 'u8') return packGroupLanes(Uint8Array.from(values), m, groups, new Uint8Array(length));
  return packGroupLanes(narrowFloats(values, 'f16'), m, groups, new Uint16Array(length));
}

function sumsOf({ q, n, shape: { k, activationGroup } }: Problem): number[] {
  const parts = ceil(k, activationGroup);
  return Array.from({ length: n * parts }, (_, i) => {
    const from = Math.floor(i / parts) * k + (i % parts) * activationGroup;
    const end = Math.min(from + activationGroup, (Math.floor(i / parts) + 1) * k);
    return q.slice(from, end).reduce((sum, value) => sum + value, 0);
  });
}

function buffersOf(p: Problem): Elements[] {
  const { m, k, bits, activationGroup, zeros, scales, residual } = p.shape;
  const parts = ceil(k, activationGroup);
  const codes = Uint8Array.from(p.codes);
  const sums = padRows(Float32Array.from(sumsOf(p)), parts, 0);
  const tiles = packCodeTiles({
    kind: 'codes',
    bits: bits as CodeBits,
    rows: m,
    cols: k,
    blocks: [{ rows: m, codes }],
  });
  return [
    activationPlanes(p.q, k, p.shape.to),
    padRows(p.scale, parts),
    Int32Array.from(sums),
    tiles,
    lanes(p.weightScale, scales, m),
    ...(residual ? [padRows(p.start, m)] : []),
    ...(zeros === 'none' ? [] : [lanes(p.zeros, zeros, m)]),
    new Float32Array(p.n * rowStride(m)),
  ];
}

const f = Math.fround;

/** The order of operations as `lowbit.matmul.group` is computed: exact integers in parts, then single floats. */
function expected(p: Problem): number[] {
  const { m, k, group, activationGroup, zero, zeros, residual } = p.shape;
  const parts = ceil(k, activationGroup);
  const groups = ceil(k, group);
  const perGroup = ceil(Math.min(group, k), activationGroup);
  const sums = sumsOf(p);
  const y: number[] = [];
  for (let t = 0; t < p.n; t++) {
    for (let row = 0; row < m; row++) {
      let total = 0;
      for (let g = 0; g < groups; g++) {
        const middle = zeros === 'u8' ? p.zeros[row * groups + g]! : zeros === 'none' ? zero : 0;
        let [product, offset] = [0, 0];
        for (let part = g * perGroup; part < Math.min(parts, (g + 1) * perGroup); part++) {
          const scale = p.scale[t * parts + part]!;
          let dot = 0;
          for (let i = part * activationGroup; i < Math.min(k, (part + 1) * activationGroup); i++) {
            dot += (p.codes[row * k + i]! - middle) * p.q[t * k + i]!;
          }
          // Half a code: twice the dot is an integer, rounded as such.
          const factor = Number.isInteger(middle) ? 1 : 2;
          product = f(product + f(f(dot * factor) * f(scale / factor)));
          offset = f(offset + f(f(sums[t * parts + part]!) * scale));
        }
        total = f(total + f(product * p.weightScale[row * groups + g]!));
        if (zeros.startsWith('f')) total = f(total - f(offset * p.zeros[row * groups + g]!));
      }
      y.push(residual ? f(p.start[t * m + row]! + total) : total);
    }
  }
  return y;
}

const BASE: GroupShape = {
  m: 20,
  k: 192,
  bits: 4,
  group: 64,
  activationGroup: 64,
  zero: 8,
  zeros: 'none',
  scales: 'f16',
  to: 'int8',
  residual: false,
  batch: 'one',
  encoding: 'code-tiles',
};

const shapes = fc
  .record({
    m: fc.integer({ min: 1, max: 40 }),
    k: fc.integer({ min: 1, max: 200 }),
    bits: fc.constantFrom(1, 2, 3, 4, 8),
    activationGroup: fc.constantFrom(16, 32, 64, 128),
    groups: fc.constantFrom(1, 2, 'row' as const),
    zeros: fc.constantFrom('none', 'u8', 'f16', 'f32'),
    middle: fc.constantFrom(0, 0.5, 1),
    scales: fc.constantFrom('f16', 'f32'),
    to: fc.constantFrom('int8', 'int16'),
    residual: fc.boolean(),
  })
  .map(({ groups, middle, ...shape }): GroupShape => {
    const group = groups === 'row' ? shape.k : groups * shape.activationGroup;
    const zero = shape.zeros !== 'none' ? 0 : middle === 0.5 ? 0.5 : middle * 2 ** (shape.bits - 1);
    const narrow = shape.activationGroup === 16 && shape.bits % 2 === 1;
    return { ...BASE, ...shape, bits: narrow ? shape.bits + 1 : shape.bits, group, zero };
  });

const BATCHES = ['one', 'many'] as const;

describe('lowbit.matmul.group', () => {
  it('has the bits of its definition on random shapes, on every kind of machine, in both forms', () => {
    fc.assert(
      fc.property(shapes, fc.constantFrom(1, 2, 7), fc.nat(1e6), (shape, n, seed) => {
        const p = problem(seed, n, shape);
        const y = expected(p);
        for (const batch of BATCHES) {
          const out = runEverywhere(groupMatmul, { ...shape, batch }, buffersOf(p), [n]).at(-1)!;
          expect(cropRows(out, shape.m)).toEqual(y);
        }
      }),
      { numRuns: 8, seed: 1 },
    );
  });

  it.each([
    [2, 'f32', 'int16', 16],
    [8, 'none', 'int8', 16],
    [4, 'u8', 'int16', 48],
  ] as const)('has them in groups of 16 activations, of %i bits', (bits, zeros, to, group) => {
    const shape = { ...BASE, bits, zeros, zero: zeros === 'none' ? 32 : 0, to, group, activationGroup: 16 };
    const p = problem(bits, 3, { ...shape, k: 150, scales: 'f32' });
    const y = expected(p);
    for (const batch of BATCHES) {
      const out = runEverywhere(groupMatmul, { ...p.shape, batch }, buffersOf(p), [3]).at(-1)!;
      expect(cropRows(out, shape.m)).toEqual(y);
    }
  });

  it.each([1, 2, 3, 4, 8])('has them in every schedule, of %i bits', (bits) => {
    const zero = bits === 1 ? 0.5 : 2 ** (bits - 1);
    const to = bits % 2 === 0 ? 'int8' : 'int16';
    const p = problem(bits, 5, { ...BASE, bits, zero, to, k: 64, group: 64, activationGroup: 64, m: 18 });
    const y = expected(p);
    for (const batch of BATCHES) {
      const n = batch === 'one' ? 1 : 5;
      const out = runSchedules(groupMatmul, { ...p.shape, batch }, buffersOf(p), [n]).at(-1)!;
      expect(cropRows(out, 18).slice(0, n * 18)).toEqual(y.slice(0, n * 18));
    }
  });

  it.each([1, 2, 3, 4, 8])('overflows nowhere with extreme values, of %i bits', (bits) => {
    for (const to of ['int8', 'int16'] as const) {
      const shape = { ...BASE, m: 4, k: 256, bits, to, group: 256, activationGroup: 256, zero: 0 };
      const p = problem(bits, 2, shape);
      const largest = to === 'int8' ? 127 : 16256;
      const extreme: Problem = {
        ...p,
        codes: p.codes.map(() => 2 ** bits - 1),
        q: p.q.map((_, i) => (i < 256 ? largest : -largest)),
      };
      // Without the kernel for few tokens, which is that of batch one.
      for (const m of MACHINES) {
        for (const batch of BATCHES) {
          const schedule = { ...groupMatmul.defaultSchedule({ ...shape, batch }, m), few: 0 };
          const fn = groupMatmul.build('kernel', { ...shape, batch }, schedule);
          expect(cropRows(runCopies(fn, buffersOf(extreme), [2]).at(-1)!, 4)).toEqual(expected(extreme));
        }
      }
    }
  });

  it('refuses what it cannot compute', () => {
    const build = (change: Partial<GroupShape>) => {
      const shape = { ...BASE, ...change };
      return groupMatmul.build('kernel', shape, groupMatmul.defaultSchedule(shape, MACHINES[0]!));
    };
    expect(() => build({ encoding: 'i2' })).toThrow(LutraError);
    expect(() => build({ bits: 5 })).toThrow('cannot read codes of 5 bits');
    expect(() => build({ activationGroup: 48 })).toThrow('cannot take activations in groups of 48');
    expect(() => build({ activationGroup: 16, bits: 3 })).toThrow(
      'cannot take codes of 3 bits in groups of 16',
    );
    expect(() => build({ group: 96 })).toThrow('cannot take weights in groups of 96');
  });
});
