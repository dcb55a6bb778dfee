/**
 * Finds subgraphs by shape. A pattern is a tree (or, where one pattern object is used twice, a dag) of
 * nodes, written from its last node, the root, back to what it reads:
 *
 * ```ts
 * const norm = pattern('rmsNorm');
 * const quantized = pattern('quantize', { inputs: [norm] });
 * findMatches(graph, quantized);
 * ```
 */
import type { Attrs, AttrValue, Graph, Node } from './ir.ts';
import { type GraphIndex, indexGraph } from './rewrite.ts';

export interface NodePattern {
  readonly op: string;
  /** What the inputs must be, in order; inputs beyond the list may be anything. */
  readonly inputs?: readonly InputPattern[];
  /** Attributes the node must have, with these values; it may have others. */
  readonly attrs?: Attrs;
  readonly where?: (node: Node, index: GraphIndex) => boolean;
}

/** A node's output (the first one unless `outputOf` says which), a constant of the graph, or anything. */
type InputPattern = NodePattern | OutputPattern | 'constant' | 'any';

export interface OutputPattern {
  readonly of: NodePattern;
  readonly output: number;
}

export function pattern(op: string, more: Omit<NodePattern, 'op'> = {}): NodePattern {
  return { op, ...more };
}

/** Output number `output`, from 0, of the node that matches `of`. */
export function outputOf(of: NodePattern, output: number): OutputPattern {
  return { of, output };
}

/** A subgraph whose only way out is its root, which makes it convex: no path leaves it and comes back. */
export interface Match {
  readonly root: Node;
  /** In graph order; the root is the last. */
  readonly nodes: readonly Node[];
  /** Values read from outside, constants among them, in the order of their first use, each once. */
  readonly inputs: readonly string[];
}

function sameAttr(a: AttrValue | undefined, b: AttrValue): boolean {
  return typeof a === 'object' && typeof b === 'object'
    ? a.length === b.length && a.every((value, i) => Object.is(value, b[i]))
    : Object.is(a, b);
}

/** Extends `bound` by the nodes that match; false when they do not. */
function bind(
  wanted: NodePattern,
  node: Node | undefined,
  index: GraphIndex,
  bound: Map<NodePattern, Node>,
): boolean {
  if (node === undefined || node.op !== wanted.op) return false;
  const known = bound.get(wanted);
  if (known !== undefined) return known === node;
  const attrs = Object.entries(wanted.attrs ?? {});
  if (!attrs.every(([name, value]) => sameAttr(node.attrs[name], value))) return false;
  if (wanted.where !== undefined && !wanted.where(node, index)) return false;
  bound.set(wanted, node);
  return (wanted.inputs ?? []).every((input, i) => {
    const name = node.inputs[i];
    if (name === undefined) return false;
    if (input === 'any') return true;
    if (input === 'constant') return index.constants.has(name);
    const [of, output] = 'of' in input ? [input.of, input.output] : [input, 0];
    const producer = index.producers.get(name);
    return producer?.outputs[output]?.name === name && bind(of, producer, index, bound);
  });
}

/** The match as a subgraph, unless a value inside it is also needed outside. */
function closed(root: Node, found: ReadonlySet<Node>, graph: Graph, index: GraphIndex): Match | undefined {
  for (const node of found) {
    if (node === root) continue;
    for (const { name } of node.outputs) {
      if (index.isOutput(name) || index.usersOf(name).some((user) => !found.has(user))) return undefined;
    }
  }
  const nodes = graph.nodes.filter((node) => found.has(node));
  const inside = new Set(nodes.flatMap((node) => node.outputs.map((value) => value.name)));
  const inputs = nodes.flatMap((node) => node.inputs).filter((name) => !inside.has(name));
  return { root, nodes, inputs: [...new Set(inputs)] };
}

/** All places where the pattern fits, in graph order, none sharing a node with another. */
export function findMatches(graph: Graph, wanted: NodePattern): readonly Match[] {
  const index = indexGraph(graph);
  const taken = new Set<Node>();
  const matches: Match[] = [];
  for (const root of graph.nodes) {
    const bound = new Map<NodePattern, Node>();
    if (!bind(wanted, root, index, bound)) continue;
    const found = new Set(bound.values());
    if ([...found].some((node) => taken.has(node))) continue;
    const match = closed(root, found, graph, index);
    if (match === undefined) continue;
    for (const node of match.nodes) taken.add(node);
    matches.push(match);
  }
  return matches;
}
