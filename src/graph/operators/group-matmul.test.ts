/** Operators on weights quantized in groups of columns, against formulas written another way. */
import { expect, test } from 'vitest';
import { randomUniform } from '../../common/random.ts';
import type { Attrs, TensorType } from '../ir.ts';
import { inferTypes, operatorOf } from '../registry.ts';
import { type Numbers, ReferenceCache, type Tensor } from '../step.ts';
import { tensor } from '../types.ts';
import { coreOperators } from './core.ts';

const STEP = { tokens: 3, outputs: 1, position: 0, cache: new ReferenceCache() };

function run(op: string, inputs: readonly Tensor[], attrs: Attrs): readonly Numbers[] {
  return operatorOf(coreOperators, op, 'test').reference({ inputs, attrs, step: STEP });
}

const random = randomUniform(5);
const draw = (count: number, range: number) => Float64Array.from({ length: count }, () => range * random());
const codes = (count: number, bits: number) =>
  Uint8Array.from({ length: count }, () => Math.floor(random() * 2 ** bits));

function expectClose(found: Numbers, expected: readonly number[], bound = 1e-12): void {
  expect(found.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) {
    expect(Math.abs(found[i]! - value)).toBeLessThanOrEqual(bound * Math.max(1, Math.abs(value)));
  }
}

const K = 20;
const x: Tensor = { shape: [3, K], data: draw(3 * K, 4).map((value) => value - 2) };
const order: Tensor = { shape: [K], data: Int32Array.from({ length: K }, (_, i) => (7 * i + 3) % K) };
const ORDERED = Array.from({ length: 3 * K }, (_, i) => x.data[i - (i % K) + order.data[i % K]!]!);

test.each([
  ['int8', 127],
  ['int16', 16256],
] as const)('quantize.group to %s is within half a step, its last group narrower', (to, largest) => {
  const [q, scale, sum] = run('quantize.group', [x, order], { group: 8, to });
  for (const [i, value] of ORDERED.entries()) {
    const step = scale![Math.floor(i / K) * 3 + Math.floor((i % K) / 8)]!;
    expect(Math.abs(q![i]! * step - value)).toBeLessThan(0.5000001 * step);
  }
  for (let part = 0; part < 9; part++) {
    const from = Math.floor(part / 3) * K + 8 * (part % 3);
    const values = Array.from(q!.slice(from, from + (part % 3 === 2 ? 4 : 8)));
    expect(Math.max(...values.map(Math.abs))).toBe(largest);
    expect(sum![part]).toBe(values.reduce((a, b) => a + b, 0));
  }
});

test('rmsNorm.quantize.group is rmsNorm, then quantize.group; a group of zeros stays zeros', () => {
  const weight: Tensor = { shape: [K], data: draw(K, 1) };
  const attrs = { group: 4, to: 'int8' };
  const [normed] = run('rmsNorm', [x, weight], { eps: 1e-5 });
  const apart = run('quantize.group', [{ shape: [3, K], data: normed! }, order], attrs);
  expect(run('rmsNorm.quantize.group', [x, weight, order], { eps: 1e-5, ...attrs })).toEqual(apart);
  const [q, scale] = run('quantize.group', [{ shape: [1, 4], data: new Float64Array(4) }], attrs);
  expect([...q!]).toEqual([0, 0, 0, 0]);
  expect(scale![0]).toBeGreaterThan(0);
});

test.each(['f32', 'f16', 'int8'] as const)(
  'quantize.group to sums from %s keeps sums of 4 columns within a byte, within half a step',
  (from) => {
    const [q, scale, sum] = run('quantize.group', [x, order], { group: 8, to: 'sums', from });
    for (let i = 0; i < q!.length; i += 4) {
      const four = Array.from(q!.slice(i, i + 4), Math.abs);
      expect(four.reduce((a, b) => a + b)).toBeLessThanOrEqual(255);
    }
    for (const [i, value] of ORDERED.entries()) {
      const step = scale![Math.floor(i / K) * 3 + Math.floor((i % K) / 8)]!;
      // From int8, half of that step more; from f16, 11 bits of a value.
      const before = from === 'int8' ? step / 2 : from === 'f16' ? Math.abs(value) / 2048 : 0;
      expect(Math.abs(q![i]! * step - value)).toBeLessThan(0.5000001 * step + before);
    }
    expect(sum![1]).toBe(Array.from(q!.slice(8, 16)).reduce((a, b) => a + b));
    // Four equal ones share the 255; three zeros leave one the 127 of int8.
    const [codes] = run(
      'quantize.group',
      [{ shape: [1, 8], data: Float64Array.of(3, 3, -3, 3, 0, 3, 0, 0) }],
      {
        group: 4,
        to: 'sums',
        from,
      },
    );
    expect([...codes!]).toEqual([63, 63, -63, 63, 0, 127, 0, 0]);
  },
);

const M = 5;

/** y by way of weights in floats. */
function expected(quantized: readonly Numbers[], weights: readonly number[], activationGroup: number) {
  const [q, scale] = quantized;
  const parts = Math.ceil(K / activationGroup);
  return Array.from({ length: 3 * M }, (_, i) => {
    const [t, row] = [Math.floor(i / M), i % M];
    let sum = 0;
    for (let c = 0; c < K; c++) {
      const value = q![t * K + c]! * scale![t * parts + Math.floor(c / activationGroup)]!;
      sum += value * weights[row * K + c]!;
    }
    return sum;
  });
}

test.each([
  { bits: 1, group: 8, activationGroup: 4, zero: 0.5, zeros: undefined },
  { bits: 3, group: K, activationGroup: 8, zero: 4, zeros: undefined },
  { bits: 4, group: 8, activationGroup: 8, zero: 0, zeros: 'integers' },
  { bits: 8, group: 4, activationGroup: 4, zero: 0, zeros: 'floats' },
])('lowbit.matmul.group of %o is the product with what the codes mean', (c) => {
  const { bits, group, activationGroup, zero } = c;
  const groups = Math.ceil(K / group);
  const quantized = run('quantize.group', [x], { group: activationGroup, to: 'int16' });
  const weight: Tensor = { shape: [M, K], data: codes(M * K, bits) };
  const scales: Tensor = { shape: [M, groups], data: draw(M * groups, 2) };
  const zeros: Tensor = {
    shape: [M, groups],
    data: c.zeros === 'floats' ? draw(M * groups, 2) : codes(M * groups, bits),
  };
  const weights = Array.from(weight.data, (code, i) => {
    const at = Math.floor(i / K) * groups + Math.floor((i % K) / group);
    const middle = c.zeros === 'integers' ? zeros.data[at]! : zero;
    return scales.data[at]! * (code - middle) - (c.zeros === 'floats' ? zeros.data[at]! : 0);
  });
  const parts = Math.ceil(K / activationGroup);
  const inputs: Tensor[] = [
    { shape: [3, K], data: quantized[0]! },
    { shape: [3, parts], data: quantized[1]! },
    { shape: [3, parts], data: quantized[2]! },
    weight,
    scales,
  ];
  const attrs = { group, activationGroup, zero };
  const more = c.zeros === undefined ? [] : [zeros];
  const product = expected(quantized, weights, activationGroup);
  expectClose(run('lowbit.matmul.group', [...inputs, ...more], attrs)[0]!, product);
  const residual: Tensor = { shape: [3, M], data: draw(3 * M, 1) };
  const added = product.map((value, i) => value + residual.data[i]!);
  expectClose(run('lowbit.matmul.group.add', [...inputs, residual, ...more], attrs)[0]!, added);
});

const TYPES: TensorType[] = [
  tensor('i8', 'tokens', 256),
  tensor('f32', 'tokens', 2),
  tensor('i32', 'tokens', 2),
  tensor('u4', 7, 256),
  tensor('f16', 7, 2),
];
const ATTRS = { group: 128, activationGroup: 128, zero: 8 };

test('lowbit.matmul.group has a shape rule', () => {
  const infer = (types: readonly TensorType[], attrs: Attrs) =>
    inferTypes(coreOperators, 'lowbit.matmul.group', types, attrs, 'node y');
  expect(infer(TYPES, ATTRS)).toEqual([tensor('f32', 'tokens', 7)]);
  expect(infer([...TYPES, tensor('u8', 7, 2)], { ...ATTRS, zero: 0 })).toEqual([tensor('f32', 'tokens', 7)]);
  expect(() => infer([...TYPES, tensor('u8', 7, 2)], ATTRS)).toThrow('has zeros, so that zero must be 0');
  expect(() => infer([...TYPES, tensor('u8', 7, 3)], { ...ATTRS, zero: 0 })).toThrow(
    'zeros u8|f16|f32[m, g]?',
  );
  expect(() => infer(TYPES, { ...ATTRS, group: 64 })).toThrow(
    'group 64 makes 4 groups of 256 columns, not 2',
  );
  expect(() => infer(TYPES, { ...ATTRS, zero: 0.3 })).toThrow('zero is 0.3, but must be a code');
  expect(() => infer(TYPES.slice(1), ATTRS)).toThrow('takes 5 to 6 inputs');
  const sums = { ...ATTRS, byteSums: true };
  expect(infer(TYPES, sums)).toEqual([tensor('f32', 'tokens', 7)]);
  expect(() => infer([tensor('i16', 'tokens', 256), ...TYPES.slice(1)], sums)).toThrow(
    'whose sums fit no byte',
  );
  const coarse = [
    ...TYPES.slice(0, 1),
    tensor('f32', 'tokens', 1),
    tensor('i32', 'tokens', 1),
    ...TYPES.slice(3),
  ];
  expect(() => infer(coarse, { ...ATTRS, activationGroup: 256 })).toThrow(
    'no multiple of activationGroup 256',
  );
});
