import type { Graph } from '../graph/ir.ts';

/**
 * How the output head's table is kept: as stored; as stored with a table of few bits beside it, by which a step
 * finds the rows that matter (`exact`); or, which rounds logits, in 8 bits a weight with a scale for every row,
 * or in 6 or 4 bits with one for every group of columns.
 */
export const HEAD_FORMS = ['stored', 'exact', 'int8', 'int6', 'int4'] as const;
export type HeadForm = (typeof HEAD_FORMS)[number];

export interface PassOptions {
  readonly head: HeadForm;
}

/** One rewrite of the whole graph. Returns the very graph it was given when there is nothing to do. */
export interface Pass {
  readonly name: string;
  run(graph: Graph, options: PassOptions): Graph;
}
