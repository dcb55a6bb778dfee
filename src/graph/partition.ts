/**
 * Hands parts of a graph to an outside code generator (TVM: "bring your own codegen"). Each subgraph that
 * matches a pattern becomes one node of an operator of its own, `external.<codegen>.<number>`:
 *
 *     n: f32[tokens, 64] = rmsNorm(x, w) {eps = 0.00001}
 *     q: i8[tokens, 64], s: f32[tokens], t: i32[tokens] = quantize(n)
 *
 *     q: i8[tokens, 64], s: f32[tokens], t: i32[tokens] = external.acme.0(x, w)
 *
 * The operator's reference runs the subgraph, so the whole graph keeps its meaning for the verifier and the
 * reference executor. The code comes from outside: the generator sees the subgraph as a `Region` and gives
 * a loop function to the plan, which takes it by the operator's name like the kernel of any operator that a
 * user registered. Its parameters are the region's inputs, then its outputs, as buffers, and the number of
 * rows as the i32 scalar `n`; rows lie in memory as src/kernels/kernel.ts says.
 */
import { evaluateGraph } from './evaluate.ts';
import type { Graph, Node, TensorType, Value } from './ir.ts';
import { findMatches, type Match, type NodePattern } from './pattern.ts';
import { printGraph } from './print.ts';
import { extendRegistry, type OperatorDef, type Registry } from './registry.ts';
import { indexGraph, replaceNodes } from './rewrite.ts';
import type { InputSchema } from './schema.ts';

/** A subgraph for an outside code generator; places that compute the same share one. */
export interface Region {
  /** The operator that stands for it, `external.<codegen>.<number>`. */
  readonly op: string;
  readonly codegen: string;
  /** Its inputs, weights among them, are in the order in which its nodes first read them. */
  readonly graph: Graph;
}

export interface PartitionOptions {
  /** Names the outside generator; letters, digits and underscores. */
  readonly codegen: string;
  readonly pattern: NodePattern;
}

export interface Partitioned {
  readonly graph: Graph;
  /** The registry given, and the operators of the regions. */
  readonly registry: Registry;
  readonly regions: readonly Region[];
}

/** The match as a graph with names of its own (in0, in1, v0, v1, ...), so that equal ones have equal texts. */
function regionGraph(match: Match, types: ReadonlyMap<string, TensorType>): Graph {
  const names = new Map(match.inputs.map((name, i) => [name, `in${i}`]));
  const inputs = match.inputs.map((name): Value => ({ name: names.get(name)!, type: types.get(name)! }));
  let count = 0;
  const nodes = match.nodes.map((node): Node => {
    const outputs = node.outputs.map(({ name, type }): Value => {
      const inside = `v${count++}`;
      names.set(name, inside);
      return { name: inside, type };
    });
    return { ...node, inputs: node.inputs.map((name) => names.get(name)!), outputs };
  });
  const outputs = match.root.outputs.map((value) => names.get(value.name)!);
  return { name: 'region', inputs, constants: [], nodes, outputs };
}

function regionOperator(op: string, graph: Graph, registry: Registry): OperatorDef {
  const types = indexGraph(graph).types;
  const outputTypes = graph.outputs.map((name) => types.get(name)!);
  return {
    name: op,
    doc: `A subgraph compiled outside: ${graph.nodes.map((node) => node.op).join(', ')}.`,
    inputs: graph.inputs.map(
      ({ name, type }): InputSchema => ({ name, dtypes: [type.dtype], shape: type.shape }),
    ),
    attrs: {},
    outputs: graph.outputs,
    infer: () => outputTypes,
    reference({ inputs, step }) {
      const values = new Map(graph.inputs.map(({ name }, i) => [name, inputs[i]!]));
      return evaluateGraph(graph, registry, values, step).map((tensor) => tensor.data);
    },
  };
}

/** Replaces every match of the pattern by one node. Partition again for another pattern or generator. */
export function partitionGraph(graph: Graph, registry: Registry, options: PartitionOptions): Partitioned {
  const { types } = indexGraph(graph);
  const byText = new Map<string, Region>();
  let next = 0;
  const freshOp = (): string => {
    for (;;) {
      const op = `external.${options.codegen}.${next++}`;
      if (!registry.operators.has(op)) return op;
    }
  };
  const remove: Node[] = [];
  const insert: Node[] = [];
  for (const match of findMatches(graph, options.pattern)) {
    const inside = regionGraph(match, types);
    const text = printGraph(inside);
    const region = byText.get(text) ?? { op: freshOp(), codegen: options.codegen, graph: inside };
    byText.set(text, region);
    remove.push(...match.nodes);
    insert.push({ op: region.op, inputs: match.inputs, outputs: match.root.outputs, attrs: {} });
  }
  const regions = [...byText.values()];
  return {
    graph: replaceNodes(graph, { remove, insert }),
    registry: extendRegistry(
      registry,
      regions.map((region) => regionOperator(region.op, region.graph, registry)),
    ),
    regions,
  };
}
