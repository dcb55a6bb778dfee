/**
 * Leaves the output head out, with the option head = 'none': a step then returns what the head would read.
 *
 * ```
 * y = matmul(x, table)     ->     return x
 * return y
 * ```
 *
 * and likewise where the head is codes, `lowbit.matmul.group(quantize.group(x), ...)`.
 */
import type { Graph } from '../graph/ir.ts';
import { indexGraph, removeDead } from '../graph/rewrite.ts';
import { headOf } from './head.ts';
import type { Pass, PassOptions } from './pass.ts';

function run(graph: Graph, { head: form }: PassOptions): Graph {
  if (form !== 'none') return graph;
  const index = indexGraph(graph);
  const outputs = graph.outputs.map((name) => {
    const head = headOf(index, name);
    if (head === undefined) return name;
    const input = head.node.inputs[0]!;
    return head.ofCodes ? index.producers.get(input)!.inputs[0]! : input;
  });
  if (outputs.every((name, i) => name === graph.outputs[i])) return graph;
  return removeDead({ ...graph, outputs });
}

export const dropHead: Pass = { name: 'drop-head', run };
