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
import type { Pass, PassOptions } from './pass.ts';

const HEADS: readonly string[] = ['matmul', 'lowbit.matmul.group', 'lowbit.matmul.blocks'];

function run(graph: Graph, { head }: PassOptions): Graph {
  if (head !== 'none') return graph;
  const { producers } = indexGraph(graph);
  const outputs = graph.outputs.map((name) => {
    const node = producers.get(name);
    if (node === undefined || !HEADS.includes(node.op)) return name;
    const input = node.inputs[0]!;
    // Codes are multiplied by activations that were quantized for them.
    return node.op === 'matmul' ? input : producers.get(input)!.inputs[0]!;
  });
  if (outputs.every((name, i) => name === graph.outputs[i])) return graph;
  return removeDead({ ...graph, outputs });
}

export const dropHead: Pass = { name: 'drop-head', run };
