/**
 * Computes a norm or quantization of the same value once.
 *
 * ```
 * a.q, a.scale, a.sum = quantize(x)            a.q, a.scale, a.sum = quantize(x)
 * q = lowbit.matmul(a.q, ...)            ->    q = lowbit.matmul(a.q, ...)
 * b.q, b.scale, b.sum = quantize(x)            k = lowbit.matmul(a.q, ...)
 * k = lowbit.matmul(b.q, ...)
 * ```
 */
import type { Graph, Node } from '../graph/ir.ts';
import { replaceNodes } from '../graph/rewrite.ts';
import type { Pass } from './pass.ts';

const SHARED = new Set([
  'quantize',
  'quantize.group',
  'quantize.blocks',
  'rmsNorm',
  'rmsNorm.quantize',
  'rmsNorm.quantize.group',
]);

function run(graph: Graph): Graph {
  const first = new Map<string, Node>();
  const rename = new Map<string, string>();
  const remove: Node[] = [];
  for (const node of graph.nodes) {
    if (!SHARED.has(node.op)) continue;
    const inputs = node.inputs.map((name) => rename.get(name) ?? name);
    const key = JSON.stringify([node.op, inputs, Object.entries(node.attrs).sort()]);
    const same = first.get(key);
    if (same === undefined) {
      first.set(key, node);
      continue;
    }
    remove.push(node);
    for (const [i, value] of node.outputs.entries()) rename.set(value.name, same.outputs[i]!.name);
  }
  return remove.length === 0 ? graph : replaceNodes(graph, { remove, rename });
}

export const shareQuantize: Pass = { name: 'share-quantize', run };
