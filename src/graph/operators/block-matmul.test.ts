/** Operators on weights in blocks of groups, against formulas written another way. */
import { describe, expect, it } from 'vitest';
import { randomUniform } from '../../common/random.ts';
import type { Attrs, TensorType } from '../ir.ts';
import { inferTypes, operatorOf } from '../registry.ts';
import { type Numbers, ReferenceCache, type Tensor } from '../step.ts';
import { tensor } from '../types.ts';
import { coreOperators } from './core.ts';

const STEP = { tokens: 2, outputs: 1, position: 0, cache: new ReferenceCache() };
const [T, M, K, GROUP, BLOCK] = [2, 3, 24, 4, 12];
const FORM = { group: GROUP, block: BLOCK };

function run(op: string, inputs: readonly Tensor[], attrs: Attrs): readonly Numbers[] {
  return operatorOf(coreOperators, op, 'test').reference({ inputs, attrs, step: STEP });
}

const random = randomUniform(9);
const draw = (count: number) => Float64Array.from({ length: count }, () => 4 * random() - 2);
const integers = (count: number, below: number) =>
  Uint8Array.from({ length: count }, () => Math.floor(random() * below));

const x: Tensor = { shape: [T, K], data: draw(T * K) };
const weight: Tensor = { shape: [M, K], data: integers(M * K, 64) };
const weightScale: Tensor = { shape: [M, K / BLOCK], data: draw((M * K) / BLOCK) };
const scaleCodes: Tensor = { shape: [M, K / GROUP], data: Int8Array.from(integers((M * K) / GROUP, 256)) };
const zeros: Tensor = { shape: [M, K / BLOCK], data: draw((M * K) / BLOCK) };
const zeroCodes: Tensor = { shape: [M, K / GROUP], data: integers((M * K) / GROUP, 16) };
const residual: Tensor = { shape: [T, M], data: draw(T * M) };

const quantized = (to: 'int8' | 'int16'): Tensor[] => {
  const [q, scale, sum] = run('quantize.blocks', [x], { ...FORM, to });
  return [
    { shape: [T, K], data: q! },
    { shape: [T, K / BLOCK], data: scale! },
    { shape: [T, K / GROUP], data: sum! },
  ];
};

describe('quantize.blocks', () => {
  it.each([
    ['int8', 127],
    ['int16', 16256],
  ] as const)('to %s is within half a step, with the sums of groups', (to, largest) => {
    const [q, scale, sum] = quantized(to).map(({ data }) => data);
    for (const [i, value] of x.data.entries()) {
      const step = scale![Math.floor(i / BLOCK)]!;
      expect(Math.abs(q![i]! * step - value)).toBeLessThan(0.5000001 * step);
    }
    for (let at = 0; at < T * K; at += BLOCK) {
      expect(Math.max(...Array.from(q!.slice(at, at + BLOCK), Math.abs))).toBe(largest);
    }
    for (const [i, total] of sum!.entries()) {
      expect(total).toBe([...q!.slice(GROUP * i, GROUP * (i + 1))].reduce((a, b) => a + b));
    }
  });
});

describe('lowbit.matmul.blocks', () => {
  /** Every product by itself, of values scaled one by one. */
  function expected([q, scale]: readonly Tensor[], minima: boolean, zero: number): number[] {
    return Array.from({ length: T * M }, (_, at) => {
      const [t, m] = [Math.floor(at / M), at % M];
      return Array.from({ length: K }, (_, k) => {
        const [block, group] = [(m * K + k - (k % BLOCK)) / BLOCK, (m * K + k - (k % GROUP)) / GROUP];
        const activation = q!.data[t * K + k]! * scale!.data[(t * K + k - (k % BLOCK)) / BLOCK]!;
        const scaled = weightScale.data[block]! * scaleCodes.data[group]! * (weight.data[m * K + k]! - zero);
        return activation * (minima ? scaled - zeros.data[block]! * zeroCodes.data[group]! : scaled);
      }).reduce((a, b) => a + b);
    });
  }

  it.each([
    ['int8', true, 0],
    ['int16', false, 32],
  ] as const)('of %s activations, with minima %s, is the sum of products', (to, minima, zero) => {
    const inputs = quantized(to);
    const more = minima ? [zeros, zeroCodes] : [];
    const attrs = { ...FORM, zero };
    const before = [...inputs, weight, weightScale];
    const [y] = run('lowbit.matmul.blocks', [...before, scaleCodes, ...more], attrs);
    const sums = expected(inputs, minima, zero);
    for (const [i, value] of sums.entries()) expect(y![i]).toBeCloseTo(value, 6);
    const [added] = run('lowbit.matmul.blocks.add', [...before, residual, scaleCodes, ...more], attrs);
    for (const [i, value] of sums.entries()) expect(added![i]).toBeCloseTo(value + residual.data[i]!, 6);
  });

  it('has a shape rule', () => {
    const types = [
      tensor('i16', 'tokens', K),
      tensor('f32', 'tokens', K / BLOCK),
      tensor('i32', 'tokens', K / GROUP),
      tensor('u4', M, K),
      tensor('f16', M, K / BLOCK),
      tensor('u8', M, K / GROUP),
    ];
    const minima = [tensor('f16', M, K / BLOCK), tensor('u8', M, K / GROUP)];
    const infer = (inputs: readonly TensorType[], change: Attrs = {}) =>
      inferTypes(coreOperators, 'lowbit.matmul.blocks', inputs, { ...FORM, zero: 0, ...change }, 'node y');
    expect(infer(types, { zero: 8 })).toEqual([tensor('f32', 'tokens', M)]);
    expect(infer([...types, ...minima])).toEqual([tensor('f32', 'tokens', M)]);
    expect(() => infer([...types, ...minima], { zero: 8 })).toThrow('has zeros, so that zero must be 0');
    expect(() => infer([...types, minima[0]!])).toThrow('has one of zeros and zeroCodes, not both');
    expect(() => infer(types, { block: 16 })).toThrow('24 columns are no whole blocks of 16');
    expect(() => infer(types, { group: 5 })).toThrow('a block of 12 columns has no whole groups of 5');
    expect(() => infer(types, { group: 6 })).toThrow('24 columns are 2 blocks and 4 groups, not 2 and 6');
  });
});
