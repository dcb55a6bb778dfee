import { expect, test } from 'vitest';
import { randomUniform } from '../common/random.ts';
import { GraphBuilder } from './builder.ts';
import type { Graph } from './ir.ts';
import { ReferenceExecutor, resolveData } from './reference.ts';
import { ReferenceCache } from './step.ts';
import { elementCount, tensor } from './types.ts';

const [VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, POSITIONS] = [11, 8, 4, 2, 2, 16] as const;
const Q_WIDTH = HEADS * HEAD_DIM;
const KV_WIDTH = KV_HEADS * HEAD_DIM;

/** A transformer of two layers with random weights, as an importer writes it or as passes leave it. */
function smallModel(fused: boolean): Graph {
  const random = randomUniform(1);
  const g = new GraphBuilder(fused ? 'fused' : 'plain');
  const weight = (name: string, type = tensor('f32', HIDDEN), draw = () => 2 * random() - 1) =>
    g.constant(name, type, { kind: 'data', values: Array.from({ length: elementCount(type)! }, draw) });
  const tokens = g.input('tokens', 'i32', ['tokens']);
  const embed = weight('embed', tensor('f32', VOCAB, HIDDEN));
  const table = weight('rope', tensor('f32', POSITIONS, HEAD_DIM));
  const heads = { heads: HEADS, kvHeads: KV_HEADS, headDim: HEAD_DIM };
  const linear = (name: string, quantized: readonly string[], rows: number, residual?: string) => {
    const w = weight(`${name}.weight`, tensor('ternary', rows, HIDDEN), () => Math.floor(3 * random()) - 1);
    const scale = weight(`${name}.scale`, tensor('f32', rows), random);
    const inputs = [...quantized, w, scale];
    if (residual === undefined) return g.op('lowbit.matmul', inputs);
    return fused
      ? g.op('lowbit.matmul.add', [...inputs, residual])
      : g.op('add', [g.op('lowbit.matmul', inputs), residual]);
  };
  const normQuantize = (x: string) => {
    const norm = weight('norm');
    return fused
      ? g.opAll('rmsNorm.quantize', [x, norm], { eps: 1e-5 })
      : g.opAll('quantize', [g.op('rmsNorm', [x, norm], { eps: 1e-5 })]);
  };
  const attention = (qkv: string, layer: number) => {
    if (fused) return g.op('attention.packed', [qkv, table], { layer, ...heads, style: 'half' });
    const turned = (start: number, count: number) => {
      const part = g.op('slice', [qkv], { start, length: count * HEAD_DIM });
      return g.op('rope', [part, table], { heads: count, headDim: HEAD_DIM, style: 'half' });
    };
    const v = g.op('slice', [qkv], { start: Q_WIDTH + KV_WIDTH, length: KV_WIDTH });
    return g.op('attention', [turned(0, HEADS), turned(Q_WIDTH, KV_HEADS), v], { layer, ...heads });
  };
  const gate = (gateUp: string) => {
    if (fused) return g.op('gate.packed', [gateUp], { act: 'silu' });
    const half = (start: number) => g.op('slice', [gateUp], { start, length: HIDDEN });
    return g.op('gate', [half(0), half(HIDDEN)], { act: 'silu' });
  };
  let x = g.op('embedding', [tokens, embed]);
  for (let layer = 0; layer < 2; layer++) {
    const attended = attention(linear('qkv', normQuantize(x), Q_WIDTH + 2 * KV_WIDTH), layer);
    x = linear('o', normQuantize(attended), HIDDEN, x);
    x = linear('down', normQuantize(gate(linear('gateUp', normQuantize(x), 2 * HIDDEN))), HIDDEN, x);
  }
  return g.build([g.op('matmul', [g.op('selectOutputs', [x]), embed], {}, 'logits')]);
}

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
  ).rejects.toThrow('constant embed is f32[11, 8], 88 values, but got a Float64Array of 87');
  await expect(
    ReferenceExecutor.create(graph, async (constant) => Float32Array.from(await resolveData(constant))),
  ).rejects.toThrow('qkv.weight is ternary[16, 8], 128 values, but got a Float32Array of 128');
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
