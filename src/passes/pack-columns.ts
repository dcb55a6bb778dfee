/**
 * Has attention and gate read one value: a fused projection as it is, where they read all of it by slices; else what
 * they read, put side by side.
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
 *
 * y = gate(g, u) {act = "silu"}, no slices      ->    p = columns(g, u)
 *                                                     y = gate.packed(p) {act = "silu"}
 *
 * q, k = the two slices of x, and v of another  ->    p = columns(x, v)
 * ```
 */
import type { Graph, Node } from '../graph/ir.ts';
import { freshNames, type GraphIndex, indexGraph, replaceNodes } from '../graph/rewrite.ts';
import { tensor } from '../graph/types.ts';
import type { Pass } from './pass.ts';

/** An operator that reads its operands side by side. */
interface Packed {
  /** The operands. */
  readonly parts: readonly string[];
  readonly op: string;
  /** Inputs after the packed one. */
  readonly others: readonly string[];
  readonly attrs: Node['attrs'];
}

/** Attention whose queries and keys are turned by the same angles, in heads as it has them; undefined for other. */
function attentionOf(index: GraphIndex, node: Node): Packed | undefined {
  const [q, k] = node.inputs.slice(0, 2).map((name) => index.producers.get(name));
  if (q?.op !== 'rope' || k?.op !== 'rope') return undefined;
  if (q.inputs[1] !== k.inputs[1] || q.attrs.style !== k.attrs.style) return undefined;
  const { heads, kvHeads, headDim } = node.attrs;
  if (q.attrs.heads !== heads || k.attrs.heads !== kvHeads || q.attrs.headDim !== headDim) return undefined;
  return {
    parts: [q.inputs[0]!, k.inputs[0]!, node.inputs[2]!],
    op: 'attention.packed',
    others: [q.inputs[1]!],
    attrs: { ...node.attrs, style: q.attrs.style! },
  };
}

/** Slices next to each other that are the whole of something become that. */
function joinSlices(index: GraphIndex, parts: readonly string[]): readonly string[] {
  const joined: string[] = [];
  for (let at = 0; at < parts.length; ) {
    const whole = index.producers.get(parts[at]!)?.inputs[0];
    const width = whole === undefined ? 0 : index.types.get(whole)?.shape[1];
    let [end, next] = [0, at];
    for (; next < parts.length && end !== width; next++) {
      const slice = index.producers.get(parts[next]!);
      if (slice?.op !== 'slice' || slice.inputs[0] !== whole || slice.attrs.start !== end) break;
      end += slice.attrs.length as number;
    }
    const complete = next > at && end === width;
    joined.push(complete ? whole! : parts[at]!);
    at = complete ? next : at + 1;
  }
  return joined;
}

function run(graph: Graph): Graph {
  const index = indexGraph(graph);
  const fresh = freshNames(graph);
  const remove: Node[] = [];
  const insert: Node[] = [];
  for (const node of graph.nodes) {
    const packed: Packed | undefined =
      node.op === 'attention'
        ? attentionOf(index, node)
        : node.op === 'gate'
          ? { parts: node.inputs, op: 'gate.packed', others: [], attrs: node.attrs }
          : undefined;
    if (packed === undefined) continue;
    remove.push(node);
    const parts = joinSlices(index, packed.parts);
    let [whole] = parts as readonly [string];
    if (parts.length > 1) {
      const types = parts.map((name) => index.types.get(name)!);
      const width = types.reduce((sum, { shape }) => sum + (shape[1] as number), 0);
      whole = fresh(`${node.outputs[0]!.name}.columns`);
      const outputs = [{ name: whole, type: tensor('f32', types[0]!.shape[0]!, width) }];
      insert.push({ op: 'columns', inputs: parts, outputs, attrs: {} });
    }
    const { op, others, attrs } = packed;
    insert.push({ op, inputs: [whole, ...others], outputs: node.outputs, attrs });
  }
  return remove.length === 0 ? graph : replaceNodes(graph, { remove, insert });
}

export const packColumns: Pass = { name: 'pack-columns', run };
