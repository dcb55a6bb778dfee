/**
 * Makes one product of those that read the same input: weights, scales and zeros one below the other.
 *
 * ```
 * q = lowbit.matmul(x.q, x.scale, x.sum, wq, sq)          qk = lowbit.matmul(x.q, x.scale, x.sum, wqk, sqk)
 * k = lowbit.matmul(x.q, x.scale, x.sum, wk, sk)    ->    q = slice(qk) {start = 0, length = m of q}
 *                                                         k = slice(qk) {start = m of q, length = m of k}
 * wq = packed-ternary("q"), wk = packed-ternary("k")      wqk = concat(packed-ternary("q"), packed-ternary("k"))
 * ```
 */
import type { Constant, Graph, Node, WeightSource } from '../graph/ir.ts';
import { freshNames, indexGraph, replaceNodes } from '../graph/rewrite.ts';
import { tensor } from '../graph/types.ts';
import type { Pass } from './pass.ts';

/** `l0.q`, `l0.k` -> `l0.q_k`: what the names share up to a dot, then the rest of each. */
function joinNames(names: readonly string[]): string {
  const cut = names[0]!.lastIndexOf('.') + 1;
  const prefix = names[0]!.slice(0, cut);
  if (!names.every((name) => name.startsWith(prefix))) return names.join('_');
  return prefix + names.map((name) => name.slice(cut)).join('_');
}

function concatenate(name: string, constants: readonly Constant[]): Constant {
  const parts = constants.flatMap(({ source }): readonly WeightSource[] =>
    source.kind === 'concat' ? source.parts : [source],
  );
  const rows = constants.reduce((sum, { type }) => sum + (type.shape[0] as number), 0);
  const { dtype, shape } = constants[0]!.type;
  return { name, type: { dtype, shape: [rows, ...shape.slice(1)] }, source: { kind: 'concat', parts } };
}

/** How many inputs of a product come before those that have a row for every column of the result. */
const BEFORE_WEIGHTS: Readonly<Record<string, number>> = {
  'lowbit.matmul': 3,
  'lowbit.matmul.group': 3,
  'lowbit.matmul.blocks': 3,
  matmul: 1,
};

/** What the names of joined constants end in. */
function partName(op: string, input: number): string {
  if (op !== 'lowbit.matmul.blocks') return ['weight', 'weightScale', 'zeros'][input]!;
  return ['weight', 'weightScale', 'scaleCodes', 'zeros', 'zeroCodes'][input]!;
}

/** What products have in common that can be one; undefined for other nodes. */
function keyOf({ op, inputs, attrs }: Node, constants: ReadonlyMap<string, Constant>): string | undefined {
  const before = BEFORE_WEIGHTS[op];
  if (before === undefined) return undefined;
  const weights = inputs.slice(before).map((name) => constants.get(name));
  if (weights.some((weight) => weight === undefined)) return undefined;
  const types = weights.map((weight) => [weight!.type.dtype, ...weight!.type.shape.slice(1)]);
  return JSON.stringify([op, inputs.slice(0, before), Object.entries(attrs).sort(), types]);
}

function run(graph: Graph): Graph {
  const { constants } = indexGraph(graph);
  const fresh = freshNames(graph);
  const groups = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    const key = keyOf(node, constants);
    if (key !== undefined) groups.set(key, [...(groups.get(key) ?? []), node]);
  }
  const remove: Node[] = [];
  const insert: Node[] = [];
  const joined: Constant[] = [];
  for (const group of groups.values()) {
    if (group.length < 2) continue;
    const outputs = group.map((node) => node.outputs[0]!);
    const name = fresh(joinNames(outputs.map((value) => value.name)));
    const { op, inputs, attrs } = group[0]!;
    const before = BEFORE_WEIGHTS[op]!;
    const weights = inputs.slice(before).map((_, i) =>
      concatenate(
        fresh(`${name}.${partName(op, i)}`),
        group.map((node) => constants.get(node.inputs[before + i]!)!),
      ),
    );
    joined.push(...weights);
    const rows = outputs[0]!.type.shape[0]!;
    insert.push({
      op,
      inputs: [...inputs.slice(0, before), ...weights.map((weight) => weight.name)],
      outputs: [{ name, type: tensor('f32', rows, weights[0]!.type.shape[0]!) }],
      attrs,
    });
    let start = 0;
    for (const value of outputs) {
      const length = value.type.shape[1] as number;
      insert.push({ op: 'slice', inputs: [name], outputs: [value], attrs: { start, length } });
      start += length;
    }
    remove.push(...group);
  }
  return remove.length === 0 ? graph : replaceNodes(graph, { remove, insert, constants: joined });
}

export const fuseProjections: Pass = { name: 'fuse-projections', run };
