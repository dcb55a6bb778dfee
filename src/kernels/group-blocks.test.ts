import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { narrowFloats } from '../common/halves.ts';
import { groupLanesLength, packCodeTiles, packGroupLanes, packNibbleLanes } from '../encodings/code-tiles.ts';
import type { CodeBits } from '../graph/ir.ts';
import type { BlockShape } from './group/shape.ts';
import { groupBlocks } from './group-blocks.ts';
import { rowStride } from './kernel.ts';
import { quantizeBlocks } from './quantize-blocks.ts';
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

const RANGES: Readonly<Record<string, readonly [number, number]>> = {
  u4: [0, 15],
  u8: [0, 63],
  i8: [-128, 127],
};

interface Problem {
  readonly shape: BlockShape;
  readonly n: number;
  readonly codes: readonly number[];
  readonly q: readonly number[];
  readonly scale: Float32Array;
  readonly weightScale: Float32Array;
  readonly scaleCodes: readonly number[];
  readonly zeros: Float32Array;
  readonly zeroCodes: readonly number[];
  readonly start: Float32Array;
}

function problem(seed: number, n: number, shape: BlockShape): Problem {
  const { m, k, bits, group, block, to, scaleCodes, zeroCodes } = shape;
  const limit = to === 'int8' ? 127 : 16256;
  const [groups, blocks] = [k / group, k / block];
  const zeroRange = RANGES[zeroCodes === 'none' ? 'u8' : zeroCodes]!;
  return {
    shape,
    n,
    codes: randomInts(seed, m * k, 0, 2 ** bits - 1),
    q: randomInts(seed + 1, n * k, -limit, limit),
    scale: randomFloats(seed + 2, n * blocks),
    weightScale: randomHalves(seed + 3, m * blocks),
    scaleCodes: randomInts(seed + 4, m * groups, ...RANGES[scaleCodes]!),
    zeros: randomHalves(seed + 5, m * blocks),
    zeroCodes: randomInts(seed + 6, m * groups, ...zeroRange),
    start: randomFloats(seed + 7, n * m),
  };
}

function groupSums({ q, shape: { group } }: Problem): Float32Array {
  return Float32Array.from({ length: q.length / group }, (_, i) =>
    q.slice(i * group, (i + 1) * group).reduce((a, b) => a + b),
  );
}

function lanes(values: Float32Array, m: number): Elements {
  const groups = values.length / m;
  const bits = narrowFloats(values, 'f16');
  return packGroupLanes(bits, m, groups, new Uint16Array(groupLanesLength(m, groups)));
}

function codeLanes(values: readonly number[], form: 'u4' | 'u8' | 'i8', m: number): Elements {
  const groups = values.length / m;
  if (form === 'u4') return packNibbleLanes(Uint8Array.from(values), m, groups);
  const length = groupLanesLength(m, groups);
  if (form === 'i8') return packGroupLanes(Int8Array.from(values), m, groups, new Int8Array(length));
  return packGroupLanes(Uint8Array.from(values), m, groups, new Uint8Array(length));
}

function buffersOf(p: Problem): Elements[] {
  const { m, k, bits, group, block, residual, scaleCodes, zeroCodes } = p.shape;
  const codes = Uint8Array.from(p.codes);
  const matrix = { kind: 'codes', bits: bits as CodeBits, rows: m, cols: k } as const;
  const hasZeros = zeroCodes !== 'none';
  return [
    activationPlanes(p.q, k, p.shape.to),
    padRows(p.scale, k / block),
    Int32Array.from(padRows(groupSums(p), k / group, 0)),
    packCodeTiles({ ...matrix, blocks: [{ rows: m, codes }] }),
    lanes(p.weightScale, m),
    ...(residual ? [padRows(p.start, m)] : []),
    codeLanes(p.scaleCodes, scaleCodes, m),
    ...(hasZeros ? [lanes(p.zeros, m), codeLanes(p.zeroCodes, zeroCodes, m)] : []),
    new Float32Array(p.n * rowStride(m)),
  ];
}

const f = Math.fround;

/** The order of operations as it is defined: integers through a block, for each plane, then single floats. */
function expected(p: Problem): number[] {
  const { m, k, group, block, zero, zeroCodes, residual, to } = p.shape;
  const perBlock = block / group;
  const sums = groupSums(p);
  const y: number[] = [];
  for (let t = 0; t < p.n; t++) {
    for (let row = 0; row < m; row++) {
      let total = 0;
      for (let at = 0; at < k / block; at++) {
        let [high, low, offset] = [0, 0, 0];
        for (let g = at * perBlock; g < (at + 1) * perBlock; g++) {
          const code = p.scaleCodes[row * (k / group) + g]!;
          for (let i = g * group; i < (g + 1) * group; i++) {
            const q = p.q[t * k + i]!;
            const upper = to === 'int8' ? q : Math.floor((q + 64) / 128);
            const weight = code * p.codes[row * k + i]!;
            high += weight * upper;
            low += weight * (q - 128 * upper);
          }
          const subtracted = zeroCodes === 'none' ? code : p.zeroCodes[row * (k / group) + g]!;
          offset += subtracted * sums[t * (k / group) + g]!;
        }
        const whole = to === 'int8' ? f(high) : f(f(f(high) * 128) + f(low));
        const value = zero === 0 ? whole : f(whole - f(f(offset) * zero));
        const scale = p.scale[t * (k / block) + at]!;
        const inRow = row * (k / block) + at;
        total = f(total + f(f(value * scale) * p.weightScale[inRow]!));
        if (zeroCodes !== 'none') total = f(total - f(f(f(offset) * scale) * p.zeros[inRow]!));
      }
      y.push(residual ? f(p.start[t * m + row]! + total) : total);
    }
  }
  return y;
}

const BASE: BlockShape = {
  m: 20,
  k: 256,
  bits: 4,
  group: 32,
  block: 256,
  zero: 0,
  scaleCodes: 'u8',
  zeroCodes: 'u8',
  to: 'int16',
  residual: false,
  batch: 'one',
  encoding: 'code-tiles',
};

/** Llama.cpp's Q2_K, Q4_K and Q6_K. */
const FORMS = {
  2: { bits: 2, group: 16, scaleCodes: 'u4', zeroCodes: 'u4', zero: 0 },
  4: { bits: 4, group: 32, scaleCodes: 'u8', zeroCodes: 'u8', zero: 0 },
  6: { bits: 6, group: 16, scaleCodes: 'i8', zeroCodes: 'none', zero: 32 },
} as const;

const shapes = fc
  .record({
    m: fc.integer({ min: 1, max: 40 }),
    blocks: fc.integer({ min: 1, max: 3 }),
    block: fc.constantFrom(64, 128, 256),
    form: fc.constantFrom(2, 4, 6),
    to: fc.constantFrom('int8', 'int16'),
    residual: fc.boolean(),
  })
  .map(({ blocks, form, ...shape }): BlockShape => {
    return { ...BASE, ...shape, ...FORMS[form as 2 | 4 | 6], k: blocks * shape.block };
  });

const BATCHES = ['one', 'many'] as const;

describe('lowbit.matmul.blocks', () => {
  it('has the bits of its definition on random shapes, on every kind of machine, in both forms', () => {
    fc.assert(
      fc.property(shapes, fc.constantFrom(1, 2, 7), fc.nat(1e6), (shape, n, seed) => {
        const p = problem(seed, n, shape);
        const y = expected(p);
        for (const batch of BATCHES) {
          const out = runEverywhere(groupBlocks, { ...shape, batch }, buffersOf(p), [n]).at(-1)!;
          expect(cropRows(out, shape.m)).toEqual(y);
        }
      }),
      { numRuns: 5, seed: 1 },
    );
  });

  it.each([2, 4, 6] as const)('has them in every schedule, of %i bits', (form) => {
    const to = form === 4 ? 'int8' : 'int16';
    const p = problem(form, 5, { ...BASE, ...FORMS[form], to, k: 64, block: 64, m: 18 });
    const y = expected(p);
    for (const batch of BATCHES) {
      const n = batch === 'one' ? 1 : 5;
      const out = runSchedules(groupBlocks, { ...p.shape, batch }, buffersOf(p), [n]).at(-1)!;
      expect(cropRows(out, 18).slice(0, n * 18)).toEqual(y.slice(0, n * 18));
    }
  });

  it.each([2, 4, 6] as const)('overflows nowhere with extreme values, of %i bits', (form) => {
    for (const to of ['int8', 'int16'] as const) {
      const shape = { ...BASE, ...FORMS[form], m: 4, to };
      const p = problem(form, 2, shape);
      const largest = to === 'int8' ? 127 : 16256;
      const [low, high] = RANGES[shape.scaleCodes]!;
      const extreme: Problem = {
        ...p,
        codes: p.codes.map(() => 2 ** form - 1),
        scaleCodes: p.scaleCodes.map(() => (low < 0 ? low : high)),
        q: p.q.map((_, i) => (i < 256 ? largest : -largest)),
      };
      // Without the kernel for few tokens, which is that of batch one.
      for (const machine of MACHINES) {
        for (const batch of BATCHES) {
          const schedule = { ...groupBlocks.defaultSchedule({ ...shape, batch }, machine), few: 0 };
          const fn = groupBlocks.build('kernel', { ...shape, batch }, schedule);
          expect(cropRows(runCopies(fn, buffersOf(extreme), [2]).at(-1)!, 4)).toEqual(expected(extreme));
        }
      }
    }
  });

  it('refuses what it cannot compute', () => {
    const build = (change: Partial<BlockShape>) => {
      const shape = { ...BASE, ...change };
      return groupBlocks.build('kernel', shape, groupBlocks.defaultSchedule(BASE, MACHINES[0]!));
    };
    expect(() => build({ encoding: 'i2' })).toThrow(LutraError);
    expect(() => build({ bits: 3 })).toThrow('cannot read codes of 3 bits');
    expect(() => build({ group: 48 })).toThrow('cannot take groups of 48');
    expect(() => build({ k: 320 })).toThrow('cannot take 320 columns in blocks of 256');
    expect(() => build({ block: 512, k: 512 })).toThrow('cannot take 512 columns in blocks of 512');
    expect(() => build({ zero: 8 })).toThrow('cannot subtract both minima and a zero');
  });
});

describe('quantize.blocks', () => {
  it.each([
    ['int8', 16],
    ['int16', 32],
  ] as const)('rounds to %s by blocks and sums groups of %i', (to, group) => {
    const [k, block, n] = [256, 128, 3];
    const x = randomFloats(5, n * k).map((value, i) => (Math.floor(i / block) === 2 ? 0 : value));
    const limit = to === 'int8' ? 127 : 16256;
    const count = to === 'int8' ? 1 : 2;
    const out = runEverywhere(
      quantizeBlocks,
      { k, group, block, to },
      [
        padRows(x, k),
        new Int8Array(count * n * k),
        new Float32Array(n * rowStride(k / block)),
        new Int32Array(n * rowStride(k / group)),
      ],
      [n],
    );
    const [q, scale, sum] = out.slice(-3) as [Int8Array, Float32Array, Int32Array];
    for (let t = 0; t < n; t++) {
      for (let i = 0; i < k; i += block) {
        const peak = Math.max(1e-30, ...x.subarray(t * k + i, t * k + i + block).map(Math.abs));
        expect(scale[t * rowStride(k / block) + i / block]).toBe(f(f(peak) / limit));
        const factor = f(limit / f(peak));
        const whole = Array.from(x.subarray(t * k + i, t * k + i + block), (value) => {
          const scaled = f(value * factor);
          const nearest = Math.round(scaled);
          return Math.abs(scaled % 1) === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
        });
        const found = whole.map((_, j) => {
          const at = count * t * k + i + j;
          return to === 'int8' ? q[at]! : 128 * q[at]! + q[at + k]!;
        });
        expect(found.map((value) => value + 0)).toEqual(whole.map((value) => value + 0));
        for (let g = 0; g < block; g += group) {
          const total = whole.slice(g, g + group).reduce((a, b) => a + b);
          expect(sum[t * rowStride(k / group) + (i + g) / group]! + 0).toBe(total + 0);
        }
      }
    }
  });
});
