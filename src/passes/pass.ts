import type { Graph } from '../graph/ir.ts';

export interface PassOptions {
  /** How the output head's table is kept: as stored, or as int8 rows, which halves it and rounds logits. */
  readonly head: 'stored' | 'int8';
}

/** One rewrite of the whole graph. Returns the very graph it was given when there is nothing to do. */
export interface Pass {
  readonly name: string;
  run(graph: Graph, options: PassOptions): Graph;
}
