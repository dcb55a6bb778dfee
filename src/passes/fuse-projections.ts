/**
 * Makes one product of those that read the same quantized input: weights and scales one below the other.
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

function run(graph: Graph): Graph {
  const { constants } = indexGraph(graph);
  const fresh = freshNames(graph);
  const groups = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    if (node.op !== 'lowbit.matmul') continue;
    if (!constants.has(node.inputs[3]!) || !constants.has(node.inputs[4]!)) continue;
    const key = JSON.stringify(node.inputs.slice(0, 3));
    groups.set(key, [...(groups.get(key) ?? []), node]);
  }
  const remove: Node[] = [];
  const insert: Node[] = [];
  const joined: Constant[] = [];
  for (const group of groups.values()) {
    if (group.length < 2) continue;
    const outputs = group.map((node) => node.outputs[0]!);
    const name = fresh(joinNames(outputs.map((value) => value.name)));
    const [weight, scale] = [3, 4].map((i) =>
      concatenate(
        fresh(`${name}.${i === 3 ? 'weight' : 'weightScale'}`),
        group.map((node) => constants.get(node.inputs[i]!)!),
      ),
    );
    joined.push(weight!, scale!);
    const rows = outputs[0]!.type.shape[0]!;
    insert.push({
      op: 'lowbit.matmul',
      inputs: [...group[0]!.inputs.slice(0, 3), weight!.name, scale!.name],
      outputs: [{ name, type: tensor('f32', rows, weight!.type.shape[0]!) }],
      attrs: {},
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
