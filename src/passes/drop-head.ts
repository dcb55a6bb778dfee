/**
 * Leaves the output head out, with the option head = 'none': a step then returns what the head would read.
 *
 * ```
 * y = matmul(x, table)     ->     return x
 * return y
 * ```
 */
import type { Graph } from '../graph/ir.ts';
import { indexGraph, removeDead } from '../graph/rewrite.ts';
import type { Pass, PassOptions } from './pass.ts';

function run(graph: Graph, { head }: PassOptions): Graph {
  if (head !== 'none') return graph;
  const { producers } = indexGraph(graph);
  const outputs = graph.outputs.map((name) => {
    const node = producers.get(name);
    return node?.op === 'matmul' ? node.inputs[0]! : name;
  });
  if (outputs.every((name, i) => name === graph.outputs[i])) return graph;
  return removeDead({ ...graph, outputs });
}

export const dropHead: Pass = { name: 'drop-head', run };
