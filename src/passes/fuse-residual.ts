/**
 * Adds a residual as a product's last step, where nothing else reads the product.
 *
 * ```
 * y = lowbit.matmul(q, scale, sum, w, s)
 * h = add(y, x)                             ->    h = lowbit.matmul.add(q, scale, sum, w, s, x)
 *
 * and lowbit.matmul.group and .blocks likewise.
 * ```
 */
import type { Graph, Node } from '../graph/ir.ts';
import { type GraphIndex, indexGraph, replaceNodes } from '../graph/rewrite.ts';
import type { Pass } from './pass.ts';

const PRODUCTS = new Set(['lowbit.matmul', 'lowbit.matmul.group', 'lowbit.matmul.blocks']);

/** Of the inputs of a product, those that come before the residual. */
const BEFORE_RESIDUAL = 5;

function soleProduct(index: GraphIndex, name: string): Node | undefined {
  const node = index.producers.get(name);
  const sole = index.usersOf(name).length === 1 && !index.isOutput(name);
  return sole && PRODUCTS.has(node?.op ?? '') ? node : undefined;
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
    const { op, inputs, attrs } = product;
    insert.push({
      op: `${op}.add`,
      inputs: [
        ...inputs.slice(0, BEFORE_RESIDUAL),
        product === first ? b : a,
        ...inputs.slice(BEFORE_RESIDUAL),
      ],
      outputs: node.outputs,
      attrs,
    });
  }
  return remove.length === 0 ? graph : replaceNodes(graph, { remove, insert });
}

export const fuseResidual: Pass = { name: 'fuse-residual', run };
