import { expect, test } from 'vitest';
import type { Graph, Node } from './ir.ts';
import { parseGraph } from './parse.ts';
import { printGraph } from './print.ts';
import { freshNames, indexGraph, removeDead, replaceNodes, sortNodes } from './rewrite.ts';

const GRAPH = parseGraph(`graph g {
  input x: f32[tokens, 4]
  const unused: f32[4] = tensor("unused")
  const w: f32[4] = tensor("w")
  a: f32[tokens, 4] = rmsNorm(x, w) {eps = 1}
  b: f32[tokens, 4] = add(a, x)
  dead: f32[tokens, 4] = add(b, b)
  c: f32[tokens, 4] = add(a, b)
  return c, b
}`);

function nodeOf(graph: Graph, name: string): Node {
  return indexGraph(graph).producers.get(name)!;
}

function body(graph: Graph): string[] {
  return printGraph(graph)
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.includes(' = ') || line.startsWith('return'));
}

test('the index knows producers, users, types and outputs', () => {
  const index = indexGraph(GRAPH);
  const names = (nodes: readonly Node[]) => nodes.map((node) => node.outputs[0]!.name);
  expect(names(index.usersOf('b'))).toEqual(['dead', 'c']);
  expect(names(index.usersOf('c'))).toEqual([]);
  expect(index.producers.get('x')).toBeUndefined();
  expect(index.constants.get('w')?.source).toEqual({ kind: 'tensor', tensor: 'w' });
  expect(index.types.get('a')?.shape).toEqual(['tokens', 4]);
  expect([index.isOutput('b'), index.isOutput('a')]).toEqual([true, false]);
});

test('dead nodes and constants go, inputs stay', () => {
  expect(body(removeDead(GRAPH))).toEqual([
    'const w: f32[4] = tensor("w")',
    'a: f32[tokens, 4] = rmsNorm(x, w) {eps = 1}',
    'b: f32[tokens, 4] = add(a, x)',
    'c: f32[tokens, 4] = add(a, b)',
    'return c, b',
  ]);
  expect(removeDead({ ...GRAPH, outputs: ['x'] }).inputs).toEqual(GRAPH.inputs);
});

test('replaced nodes leave readers and outputs redirected and the order right', () => {
  const double: Node = {
    ...nodeOf(GRAPH, 'b'),
    inputs: ['a', 'a'],
    outputs: [{ name: 'd', type: GRAPH.inputs[0]!.type }],
  };
  const graph = replaceNodes(GRAPH, {
    remove: [nodeOf(GRAPH, 'b')],
    insert: [double],
    rename: new Map([['b', 'd']]),
  });
  expect(body(removeDead(graph)).slice(1)).toEqual([
    'a: f32[tokens, 4] = rmsNorm(x, w) {eps = 1}',
    'd: f32[tokens, 4] = add(a, a)',
    'c: f32[tokens, 4] = add(a, d)',
    'return c, d',
  ]);
});

test('sorting restores an order of definition before use and keeps one that is right', () => {
  expect(sortNodes(GRAPH.nodes)).toEqual(GRAPH.nodes);
  const reversed = sortNodes([...GRAPH.nodes].reverse());
  const seen = new Set(['x', 'w']);
  for (const node of reversed) {
    expect(node.inputs.every((input) => seen.has(input))).toBe(true);
    seen.add(node.outputs[0]!.name);
  }
  expect(reversed).toHaveLength(GRAPH.nodes.length);
});

test('nodes that wait for each other are refused, and long chains are no problem', () => {
  const type = GRAPH.inputs[0]!.type;
  const link = (name: string, input: string): Node => ({
    op: 'add',
    inputs: [input, 'x'],
    outputs: [{ name, type }],
    attrs: {},
  });
  expect(() => sortNodes([link('a', 'b'), link('b', 'a')])).toThrow(
    'node a (add) reads what it computes, by way of a',
  );
  const chain = Array.from({ length: 50_000 }, (_, i) => link(`v${i + 1}`, `v${i}`));
  expect(sortNodes([...chain].reverse())[0]).toBe(chain[0]);
});

test('fresh names differ from all there are', () => {
  const fresh = freshNames(GRAPH);
  expect([fresh('a'), fresh('a'), fresh('new'), fresh('new'), fresh('w')]).toEqual([
    'a_1',
    'a_2',
    'new',
    'new_1',
    'w_1',
  ]);
});
