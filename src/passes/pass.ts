import type { CodeBits, Graph } from '../graph/ir.ts';

/**
 * How the output head's table is kept: as stored; as stored with a table of few bits beside it, by which a step
 * finds the rows that matter (`exact`); or, which rounds logits, in 8 bits a weight with a scale for every row,
 * or in 6 or 4 bits with one for every group of columns.
 */
export const HEAD_FORMS = ['stored', 'exact', 'int8', 'int6', 'int4'] as const;
export type HeadForm = (typeof HEAD_FORMS)[number];

/** How ternary weights are kept: 2 bits each, or 1.6, which takes more work to read. */
export const TERNARY_ENCODINGS = ['i2', 't5b'] as const;
export type TernaryEncoding = (typeof TERNARY_ENCODINGS)[number];

export interface PassOptions {
  readonly head: HeadForm;
  /** Default: `i2`. */
  readonly ternary?: TernaryEncoding;
  /** Bits of the codes that kernels look up (encoding `bit-planes`) instead of multiplying by them; default: none. */
  readonly lookup?: readonly CodeBits[];
}

/** One rewrite of the whole graph. Returns the very graph it was given when there is nothing to do. */
export interface Pass {
  readonly name: string;
  run(graph: Graph, options: PassOptions): Graph;
}
