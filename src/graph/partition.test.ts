import { expect, test } from 'vitest';
import type { Graph } from './ir.ts';
import { coreOperators } from './operators/core.ts';
import { parseGraph } from './parse.ts';
import { partitionGraph } from './partition.ts';
import { findMatches, outputOf, pattern } from './pattern.ts';
import { nodeLine, printGraph } from './print.ts';
import { ReferenceExecutor, resolveData } from './reference.ts';
import type { Registry } from './registry.ts';
import { ReferenceCache } from './step.ts';
import { smallModel } from './testing.ts';
import { verifyGraph } from './verify.ts';

const GRAPH = parseGraph(`graph g {
  input x: f32[tokens, 4]
  const w: f32[4] = tensor("w")
  a: f32[tokens, 4] = rmsNorm(x, w) {eps = 1}
  b: f32[tokens, 4] = rmsNorm(x, w) {eps = 2}
  c: f32[tokens, 4] = add(a, b)
  d: f32[tokens, 4] = add(b, b)
  e: f32[tokens, 4] = add(c, d)
  return e
}`);

const roots = (graph: Graph, ...args: Parameters<typeof pattern>) =>
  findMatches(graph, pattern(...args)).map((match) => match.root.outputs[0]!.name);

test('patterns select by operator, attributes, predicate and kind of input', () => {
  expect(roots(GRAPH, 'rmsNorm')).toEqual(['a', 'b']);
  expect(roots(GRAPH, 'rmsNorm', { attrs: { eps: 2 } })).toEqual(['b']);
  expect(roots(GRAPH, 'rmsNorm', { inputs: ['any', 'constant'] })).toEqual(['a', 'b']);
  expect(roots(GRAPH, 'rmsNorm', { inputs: ['constant'] })).toEqual([]);
  expect(roots(GRAPH, 'add', { where: (node) => node.inputs[0] === node.inputs[1] })).toEqual(['d']);
  expect(roots(GRAPH, 'add', { inputs: ['any', 'any', 'any'] })).toEqual([]);
});

test('a value that is also read outside, or returned, keeps its node out of a match', () => {
  const norm = pattern('rmsNorm');
  expect(roots(GRAPH, 'add', { inputs: [norm] })).toEqual(['c']);
  expect(roots(GRAPH, 'add', { inputs: ['any', norm] })).toEqual([]);
  expect(roots({ ...GRAPH, outputs: ['e', 'a'] }, 'add', { inputs: [norm] })).toEqual([]);
});

test('one pattern object stands for one node, and matches do not overlap', () => {
  const sum = pattern('add');
  const [match, ...others] = findMatches(GRAPH, pattern('add', { inputs: [sum, pattern('add')] }));
  expect(others).toEqual([]);
  expect(match?.nodes.map((node) => node.outputs[0]!.name)).toEqual(['c', 'd', 'e']);
  expect(match?.inputs).toEqual(['a', 'b']);
  expect(roots(GRAPH, 'add', { inputs: [sum, sum] })).toEqual([]);
  const chain = parseGraph(`graph g {
    input x: f32[tokens, 4]
    a: f32[tokens, 4] = add(x, x)
    b: f32[tokens, 4] = add(a, x)
    c: f32[tokens, 4] = add(b, x)
    return c
  }`);
  expect(roots(chain, 'add', { inputs: [sum] })).toEqual(['b']);
});

test('outputs of a node with several are told apart', () => {
  const graph = smallModel(false, 1);
  const quantized = pattern('quantize');
  const all = [outputOf(quantized, 0), outputOf(quantized, 1), outputOf(quantized, 2), 'constant' as const];
  expect(findMatches(graph, pattern('lowbit.matmul', { inputs: all }))).toHaveLength(4);
  expect(findMatches(graph, pattern('lowbit.matmul', { inputs: [outputOf(quantized, 1)] }))).toEqual([]);
});

const normQuantize = pattern('quantize', { inputs: [pattern('rmsNorm')] });

async function logitsOf(graph: Graph, registry: Registry): Promise<Float64Array> {
  const model = await ReferenceExecutor.create(graph, resolveData, registry);
  return model.forward(Int32Array.of(2, 7, 1), { position: 0, logits: 'all', cache: new ReferenceCache() });
}

test('each match becomes a node of one operator for all equal subgraphs, and the meaning stays', async () => {
  const graph = smallModel(false);
  const options = { codegen: 'acme', pattern: normQuantize };
  const { graph: cut, registry, regions } = partitionGraph(graph, coreOperators, options);
  verifyGraph(cut, registry);
  expect(cut.nodes.some((node) => node.op === 'rmsNorm' || node.op === 'quantize')).toBe(false);
  expect(cut.nodes.filter((node) => node.op === 'external.acme.0')).toHaveLength(8);
  expect(nodeLine(cut.nodes[1]!)).toBe(
    'quantize.q: i8[tokens, 16], quantize.scale: f32[tokens], quantize.sum: i32[tokens] = external.acme.0(embedding, norm)',
  );
  expect(regions.map((region) => [region.op, region.codegen, printGraph(region.graph)])).toEqual([
    [
      'external.acme.0',
      'acme',
      `graph region {
  input in0: f32[tokens, 16]
  input in1: f32[16]

  v0: f32[tokens, 16] = rmsNorm(in0, in1) {eps = 0.00001}
  v1: i8[tokens, 16], v2: f32[tokens], v3: i32[tokens] = quantize(v0)

  return v1, v2, v3
}
`,
    ],
  ]);
  verifyGraph(regions[0]!.graph);
  expect(await logitsOf(cut, registry)).toEqual(await logitsOf(graph, coreOperators));
});

test('a graph can be partitioned again, also around what was cut out before, and with state inside', async () => {
  const graph = smallModel(false);
  const first = partitionGraph(graph, coreOperators, { codegen: 'acme', pattern: normQuantize });
  const [op] = first.regions.map((region) => region.op);
  const second = partitionGraph(first.graph, first.registry, {
    codegen: 'acme',
    pattern: pattern(op!, { inputs: [pattern('attention')] }),
  });
  // Attention keeps the state of its layer, so that two layers are two operators.
  expect(second.regions.map((region) => region.op)).toEqual(['external.acme.1', 'external.acme.2']);
  verifyGraph(second.graph, second.registry);
  expect(await logitsOf(second.graph, second.registry)).toEqual(await logitsOf(graph, coreOperators));
});

test('nothing to match leaves the graph and the registry as they are', () => {
  const options = { codegen: 'acme', pattern: pattern('conv2d') };
  const result = partitionGraph(GRAPH, coreOperators, options);
  expect(result.graph).toEqual(GRAPH);
  expect(result.registry).toEqual(coreOperators);
  expect(result.regions).toEqual([]);
});
