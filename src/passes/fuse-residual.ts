/**
 * Adds a residual as a product's last step, where nothing else reads the product.
 *
 * ```
 * y = lowbit.matmul(q, scale, sum, w, s)
 * h = add(y, x)                             ->    h = lowbit.matmul.add(q, scale, sum, w, s, x)
 * ```
 */
import type { Graph, Node } from '../graph/ir.ts';
import { type GraphIndex, indexGraph, replaceNodes } from '../graph/rewrite.ts';
import type { Pass } from './pass.ts';

function soleProduct(index: GraphIndex, name: string): Node | undefined {
  const node = index.producers.get(name);
  const sole = index.usersOf(name).length === 1 && !index.isOutput(name);
  return sole && node?.op === 'lowbit.matmul' ? node : undefined;
}

function run(graph: Graph): Graph {
  const index = indexGraph(graph);
  const remove: Node[] = [];
  const insert: Node[] = [];
  for (const node of graph.nodes) {
    if (node.op !== 'add' || node.inputs[0] === node.inputs[1]) continue;
    const [a, b] = node.inputs as readonly [string, string];
    const [first, second] = [soleProduct(index, a), soleProduct(index, b)];
    const product = first ?? second;
    if (product === undefined) continue;
    remove.push(product, node);
    insert.push({
      op: 'lowbit.matmul.add',
      inputs: [...product.inputs, product === first ? b : a],
      outputs: node.outputs,
      attrs: {},
    });
  }
  return remove.length === 0 ? graph : replaceNodes(graph, { remove, insert });
}

export const fuseResidual: Pass = { name: 'fuse-residual', run };
