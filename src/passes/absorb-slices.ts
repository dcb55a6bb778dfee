/**
 * Lets attention and gate read a fused projection as it is, where they read all of it by slices.
 *
 * ```
 * q = slice(p) {start = 0, ...}
 * k = slice(p) {start = m of q, ...}
 * v = slice(p) {start = m of q + m of k, ...}
 * a = rope(q, table) {heads = 8, ...}           ->    y = attention.packed(p, table) {heads = 8, ...}
 * b = rope(k, table) {heads = 4, ...}
 * y = attention(a, b, v) {heads = 8, ...}
 *
 * g = slice(p) {start = 0, length = k}
 * u = slice(p) {start = k, length = k}          ->    y = gate.packed(p) {act = "relu2"}
 * y = gate(g, u) {act = "relu2"}
 * ```
 */
import type { Graph, Node } from '../graph/ir.ts';
import { type GraphIndex, indexGraph, replaceNodes } from '../graph/rewrite.ts';
import type { Pass } from './pass.ts';

function producer(index: GraphIndex, name: string | undefined, op: string): Node | undefined {
  const node = name === undefined ? undefined : index.producers.get(name);
  return node?.op === op ? node : undefined;
}

/** The value that the slices make up, in this order and from its first column to its last. */
function wholeOf(index: GraphIndex, slices: readonly (Node | undefined)[]): string | undefined {
  const whole = slices[0]?.inputs[0];
  if (whole === undefined) return undefined;
  let end = 0;
  for (const slice of slices) {
    if (slice?.inputs[0] !== whole || slice.attrs.start !== end) return undefined;
    end += slice.attrs.length as number;
  }
  return index.types.get(whole)?.shape[1] === end ? whole : undefined;
}

function packAttention(index: GraphIndex, node: Node): Node | undefined {
  const [q, k] = node.inputs.slice(0, 2).map((name) => producer(index, name, 'rope'));
  if (q === undefined || k === undefined) return undefined;
  if (q.inputs[1] !== k.inputs[1] || q.attrs.style !== k.attrs.style) return undefined;
  const { heads, kvHeads, headDim } = node.attrs;
  const fits = q.attrs.heads === heads && k.attrs.heads === kvHeads && q.attrs.headDim === headDim;
  const slices = [q.inputs[0], k.inputs[0], node.inputs[2]].map((name) => producer(index, name, 'slice'));
  const whole = wholeOf(index, slices);
  if (!fits || whole === undefined) return undefined;
  return {
    op: 'attention.packed',
    inputs: [whole, q.inputs[1]!],
    outputs: node.outputs,
    attrs: { ...node.attrs, style: q.attrs.style! },
  };
}

function packGate(index: GraphIndex, node: Node): Node | undefined {
  const whole = wholeOf(
    index,
    node.inputs.map((name) => producer(index, name, 'slice')),
  );
  if (whole === undefined) return undefined;
  return { op: 'gate.packed', inputs: [whole], outputs: node.outputs, attrs: node.attrs };
}

function run(graph: Graph): Graph {
  const index = indexGraph(graph);
  const remove: Node[] = [];
  const insert: Node[] = [];
  for (const node of graph.nodes) {
    const packed =
      node.op === 'attention'
        ? packAttention(index, node)
        : node.op === 'gate'
          ? packGate(index, node)
          : undefined;
    if (packed === undefined) continue;
    remove.push(node);
    insert.push(packed);
  }
  return remove.length === 0 ? graph : replaceNodes(graph, { remove, insert });
}

export const absorbSlices: Pass = { name: 'absorb-slices', run };
