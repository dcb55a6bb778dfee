import { expect, test } from 'vitest';
import { ReferenceExecutor, resolveData } from './reference.ts';
import { ReferenceCache } from './step.ts';
import { smallModel, SMALL_VOCAB as VOCAB } from './testing.ts';

const TOKENS = Int32Array.of(3, 1, 4, 1, 5, 9);

test('one step over all tokens, steps of one token and fused operators give the same logits', async () => {
  const plain = await ReferenceExecutor.create(smallModel(false), resolveData);
  const fused = await ReferenceExecutor.create(smallModel(true), resolveData);
  const all = plain.forward(TOKENS, { position: 0, logits: 'all', cache: new ReferenceCache() });
  expect(all).toHaveLength(TOKENS.length * VOCAB);
  expect(new Set(all).size).toBeGreaterThan(VOCAB);
  expect(fused.forward(TOKENS, { position: 0, logits: 'all', cache: new ReferenceCache() })).toEqual(all);
  const cache = new ReferenceCache();
  for (const [position, token] of TOKENS.entries()) {
    const logits = plain.forward(Int32Array.of(token), { position, logits: 'last', cache });
    expect(logits).toEqual(all.slice(position * VOCAB, (position + 1) * VOCAB));
  }
  // Going back and on with another token forgets what came after.
  const other = plain.forward(Int32Array.of(7), { position: 3, logits: 'last', cache });
  const fresh = Int32Array.of(3, 1, 4, 7);
  expect(other).toEqual(plain.forward(fresh, { position: 0, logits: 'last', cache: new ReferenceCache() }));
});

test('every value that a node computes can be observed', async () => {
  const graph = smallModel(false);
  const model = await ReferenceExecutor.create(graph, resolveData);
  const seen: string[] = [];
  let last: ArrayLike<number> = [];
  const cache = new ReferenceCache();
  const logits = model.forward(TOKENS, {
    position: 0,
    logits: 'last',
    cache,
    observe(value, { shape, data }) {
      seen.push(value.name);
      expect(data).toHaveLength(shape.reduce((a, b) => a * b, 1));
      last = data;
    },
  });
  expect(seen).toEqual(graph.nodes.flatMap((node) => node.outputs.map((value) => value.name)));
  expect(logits).toHaveLength(VOCAB);
  expect(logits).toEqual(last);
});

test('constants of the wrong size or kind, and steps that make no sense, are refused', async () => {
  const graph = smallModel(false);
  await expect(
    ReferenceExecutor.create(graph, async (constant) => (await resolveData(constant)).subarray(1)),
  ).rejects.toThrow('constant embed is f32[11, 16], 176 values, but got a Float64Array of 175');
  await expect(
    ReferenceExecutor.create(graph, async (constant) => Float32Array.from(await resolveData(constant))),
  ).rejects.toThrow('qkv.weight is ternary[32, 16], 512 values, but got a Float32Array of 512');
  await expect(
    ReferenceExecutor.create({ ...graph, inputs: [], nodes: [], outputs: ['embed'] }, resolveData),
  ).rejects.toThrow('a model has one input, tokens i32[tokens]');
  const model = await ReferenceExecutor.create(graph, resolveData);
  const cache = new ReferenceCache();
  expect(() => model.forward(Int32Array.of(), { position: 0, logits: 'last', cache })).toThrow(
    'at least one',
  );
  expect(() => model.forward(Int32Array.of(1), { position: 1, logits: 'last', cache })).toThrow('position 1');
  expect(() => model.forward(TOKENS, { position: 11, logits: 'last', cache })).toThrow(
    'position 16 is beyond',
  );
  expect(() => model.forward(Int32Array.of(VOCAB), { position: 0, logits: 'last', cache })).toThrow(
    'token 11',
  );
});
