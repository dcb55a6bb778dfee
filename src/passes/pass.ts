import type { CodeBits, Graph } from '../graph/ir.ts';

/**
 * How the output head's table is kept: as stored; as stored with a table of few bits beside it, by which a step
 * finds the rows that matter (`exact`); or, which rounds logits, in 8 bits a weight with a scale for every row,
 * or in 6 or 4 bits with one for every group of columns.
 */
export const HEAD_FORMS = ['stored', 'exact', 'int8', 'int6', 'int4'] as const;
/** `none`: without one, for models whose last activations are wanted. */
export type HeadForm = (typeof HEAD_FORMS)[number] | 'none';

/** How ternary weights are kept: 2 bits each, or 1.6, which takes more work to read. */
export const TERNARY_ENCODINGS = ['i2', 't5b'] as const;
export type TernaryEncoding = (typeof TERNARY_ENCODINGS)[number];

/**
 * How codes of 1 to 4 bits are multiplied: by instructions that multiply (`mad`), or by looking up sums of activations
 * (`lut`), which gives the same results; in tables of 8 bits (`lut-int8`), added by averages (`lut-fast`), which does not;
 * or by counting bits (`popcount`), which does and is slower.
 */
export const FAMILIES = ['mad', 'lut', 'lut-int8', 'lut-fast', 'popcount'] as const;
export type Family = (typeof FAMILIES)[number];

export interface PassOptions {
  readonly head: HeadForm;
  /** Default: `i2`; `bit-planes` are looked up instead of multiplied by. */
  readonly ternary?: TernaryEncoding | 'bit-planes';
  /** Bits of the codes that kernels look up (encoding `bit-planes`) instead of multiplying by them; default: none. */
  readonly lookup?: readonly CodeBits[];
  /** Encodings of single constants, by name, instead of those that the rules above give them. */
  readonly encodings?: ReadonlyMap<string, string>;
}

/** One rewrite of the whole graph. Returns the very graph it was given when there is nothing to do. */
export interface Pass {
  readonly name: string;
  run(graph: Graph, options: PassOptions): Graph;
}
