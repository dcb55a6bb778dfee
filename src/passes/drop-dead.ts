/**
 * Drops nodes and constants that no output needs.
 *
 * ```
 * a = rmsNorm(x, w) {eps = 1e-5}
 * b = add(x, x)                     ->    b = add(x, x)
 * return b                                return b
 * ```
 */
import type { Graph } from '../graph/ir.ts';
import { removeDead } from '../graph/rewrite.ts';
import type { Pass } from './pass.ts';

function run(graph: Graph): Graph {
  const alive = removeDead(graph);
  const same = alive.nodes.length === graph.nodes.length && alive.constants.length === graph.constants.length;
  return same ? graph : alive;
}

export const dropDead: Pass = { name: 'drop-dead', run };
