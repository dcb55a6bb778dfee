/**
 * Quantizes a norm's result while it is still in registers, where nothing else reads it.
 *
 * ```
 * n = rmsNorm(x, w) {eps = 1e-5}           q, scale, sum = rmsNorm.quantize(x, w) {eps = 1e-5}
 * q, scale, sum = quantize(n)        ->
 *
 * and quantize.group likewise.
 * ```
 */
import type { Graph, Node } from '../graph/ir.ts';
import { indexGraph, replaceNodes } from '../graph/rewrite.ts';
import type { Pass } from './pass.ts';

function run(graph: Graph): Graph {
  const index = indexGraph(graph);
  const remove: Node[] = [];
  const insert: Node[] = [];
  for (const node of graph.nodes) {
    const quantizes = node.op === 'quantize' || node.op === 'quantize.group';
    const norm = quantizes ? index.producers.get(node.inputs[0]!) : undefined;
    if (norm?.op !== 'rmsNorm') continue;
    const normed = norm.outputs[0]!.name;
    if (index.usersOf(normed).length > 1 || index.isOutput(normed)) continue;
    remove.push(norm, node);
    insert.push({
      op: `rmsNorm.${node.op}`,
      inputs: [...norm.inputs, ...node.inputs.slice(1)],
      outputs: node.outputs,
      attrs: { ...norm.attrs, ...node.attrs },
    });
  }
  return remove.length === 0 ? graph : replaceNodes(graph, { remove, insert });
}

export const fuseNormQuantize: Pass = { name: 'fuse-norm-quantize', run };
