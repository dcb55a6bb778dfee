/** What passes need to take a graph apart and put it together again. Graphs are never changed in place. */
import { LutraError } from '../common/errors.ts';
import type { Constant, Graph, Node, TensorType } from './ir.ts';
import { nodeText } from './registry.ts';

export interface GraphIndex {
  /** The node that defines a value; inputs and constants have none. */
  readonly producers: ReadonlyMap<string, Node>;
  readonly constants: ReadonlyMap<string, Constant>;
  readonly types: ReadonlyMap<string, TensorType>;
  /** Nodes that read a value, in graph order, each once. Empty for a value that nobody reads. */
  usersOf(name: string): readonly Node[];
  isOutput(name: string): boolean;
}

export function indexGraph(graph: Graph): GraphIndex {
  const producers = new Map<string, Node>();
  const types = new Map<string, TensorType>();
  const users = new Map<string, Node[]>();
  for (const value of [...graph.inputs, ...graph.constants]) types.set(value.name, value.type);
  for (const node of graph.nodes) {
    for (const value of node.outputs) {
      producers.set(value.name, node);
      types.set(value.name, value.type);
    }
    for (const input of new Set(node.inputs)) {
      const list = users.get(input);
      if (list === undefined) users.set(input, [node]);
      else list.push(node);
    }
  }
  const outputs = new Set(graph.outputs);
  return {
    producers,
    constants: new Map(graph.constants.map((constant) => [constant.name, constant])),
    types,
    usersOf: (name) => users.get(name) ?? [],
    isOutput: (name) => outputs.has(name),
  };
}

/**
 * The nodes in an order where each follows those it reads, the given order kept where it is already right.
 * Values that no node defines count as there from the start. Throws `invalid` when nodes wait for each other.
 */
export function sortNodes(nodes: readonly Node[]): readonly Node[] {
  const producers = new Map(
    nodes.flatMap((node) => node.outputs.map((value) => [value.name, node] as const)),
  );
  const sorted: Node[] = [];
  const state = new Map<Node, 'open' | 'done'>();
  // Depth first with a stack of its own: a model has thousands of nodes in a row.
  const stack: { node: Node; next: number }[] = [];
  for (const start of nodes) {
    if (state.has(start)) continue;
    stack.push({ node: start, next: 0 });
    state.set(start, 'open');
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const input = top.node.inputs[top.next++];
      if (input === undefined) {
        state.set(top.node, 'done');
        sorted.push(top.node);
        stack.pop();
        continue;
      }
      const producer = producers.get(input);
      if (producer === undefined || state.get(producer) === 'done') continue;
      if (state.get(producer) === 'open') {
        throw new LutraError('invalid', `${nodeText(producer)} reads what it computes, by way of ${input}`);
      }
      state.set(producer, 'open');
      stack.push({ node: producer, next: 0 });
    }
  }
  return sorted;
}

export interface Replacement {
  /** Nodes to take out. */
  readonly remove?: Iterable<Node>;
  /** Nodes to put in; where is found by what they read. */
  readonly insert?: readonly Node[];
  /** Constants to put in. */
  readonly constants?: readonly Constant[];
  /** Readers of the key, the graph's outputs among them, are made to read the value instead. */
  readonly rename?: ReadonlyMap<string, string>;
}

/** Takes nodes out, puts others in, redirects readers, and restores the order. Unused leftovers stay: see `removeDead`. */
export function replaceNodes(graph: Graph, change: Replacement): Graph {
  const { insert = [], constants = [], rename = new Map<string, string>() } = change;
  const removed = new Set(change.remove ?? []);
  const current = (name: string) => rename.get(name) ?? name;
  const redirect = (node: Node): Node =>
    node.inputs.some((input) => rename.has(input)) ? { ...node, inputs: node.inputs.map(current) } : node;
  // New nodes go where the last removed one was, so that a rewritten graph reads in the old order.
  const nodes: Node[] = [];
  const last = graph.nodes.findLastIndex((node) => removed.has(node));
  for (const [i, node] of graph.nodes.entries()) {
    if (!removed.has(node)) nodes.push(redirect(node));
    if (i === last) nodes.push(...insert);
  }
  if (last < 0) nodes.push(...insert);
  return {
    ...graph,
    constants: [...graph.constants, ...constants],
    nodes: sortNodes(nodes),
    outputs: graph.outputs.map(current),
  };
}

/** Drops nodes and constants that no output depends on. Inputs stay: they are the graph's signature. */
export function removeDead(graph: Graph): Graph {
  const needed = new Set(graph.outputs);
  const nodes: Node[] = [];
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some((value) => needed.has(value.name))) continue;
    nodes.push(node);
    for (const input of node.inputs) needed.add(input);
  }
  return {
    ...graph,
    constants: graph.constants.filter((constant) => needed.has(constant.name)),
    nodes: nodes.reverse(),
  };
}

/** A function that gives names no value of the graph has, and none it gave before: `x`, then `x_1`, ... */
export function freshNames(graph: Graph): (name: string) => string {
  const used = new Set(indexGraph(graph).types.keys());
  return (name) => {
    let unique = name;
    for (let i = 1; used.has(unique); i++) unique = `${name}_${i}`;
    used.add(unique);
    return unique;
  };
}
