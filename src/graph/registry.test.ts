import { expect, test } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { GraphBuilder } from './builder.ts';
import { coreOperators } from './operators/core.ts';
import { createRegistry, defineOperator, extendRegistry, inferTypes, operatorOf } from './registry.ts';
import { input, integerAttr } from './schema.ts';
import { tensor } from './types.ts';

const shift = defineOperator({
  name: 'acme.shift',
  doc: 'x with its columns moved `by` places to the right, around the end.',
  inputs: [input('x', 'f32', 't', 'k')],
  attrs: { by: integerAttr(0) },
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('k'))],
  reference({ inputs: [x], attrs: { by } }) {
    const { shape, data } = x!;
    const k = shape[1]!;
    const from = (i: number) => i - (i % k) + ((i - by + k * Math.ceil(by / k)) % k);
    return [Float64Array.from(data, (_, i) => data[from(i)]!)];
  },
});

test('a user adds operators without changing the registry they start from', () => {
  const registry = extendRegistry(coreOperators, [shift]);
  expect(operatorOf(registry, 'acme.shift', 'here').doc).toContain('around');
  expect(coreOperators.operators.has('acme.shift')).toBe(false);
  const g = new GraphBuilder('g', registry);
  const x = g.op('acme.shift', [g.input('x', 'f32', ['tokens', 4])], { by: 3 });
  expect(g.typeOf(x)).toEqual(tensor('f32', 'tokens', 4));
});

test('an operator cannot be redefined', () => {
  expect(() => extendRegistry(createRegistry([shift]), [shift])).toThrow('acme.shift is already registered');
});

test.each([
  ['rmsnorm', 'Did you mean rmsNorm?'],
  ['conv2d', 'Known operators: embedding, rmsNorm,'],
])('%s is unknown', (op, hint) => {
  try {
    inferTypes(coreOperators, op, [], {}, 'node h (x)');
    expect.unreachable();
  } catch (error) {
    expect(error).toBeInstanceOf(LutraError);
    expect((error as LutraError).code).toBe('unsupported');
    expect((error as LutraError).message).toBe(`node h (x): no operator is called ${op}`);
    expect((error as LutraError).hint).toContain(hint);
  }
});

test('what does not fit is explained by the signature', () => {
  try {
    inferTypes(coreOperators, 'rmsNorm', [], { eps: 1 }, 'node n (rmsNorm)');
    expect.unreachable();
  } catch (error) {
    expect((error as LutraError).hint).toBe('The operator is rmsNorm(x f32[t, k], weight f32[k]) {eps}.');
  }
});

test('an operator that infers too few types is caught', () => {
  const broken = defineOperator({ ...shift, name: 'acme.broken', outputs: ['a', 'b'] });
  const registry = createRegistry([broken]);
  const inputs = [tensor('f32', 'tokens', 4)];
  expect(() => inferTypes(registry, 'acme.broken', inputs, { by: 1 }, 'here')).toThrow(
    'acme.broken: infers 1 types for the outputs a, b',
  );
});
