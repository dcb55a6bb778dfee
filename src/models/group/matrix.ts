import type { CodeBits } from '../../graph/ir.ts';
import type { StoredFloats } from '../tensors.ts';

/** A weight is scale * (code - zero), or scale * code - zero where zeros are floats. */
export interface GroupMatrix {
  readonly bits: CodeBits;
  readonly rows: number;
  readonly cols: number;
  /** Columns that share a scale; the last group may be narrower. */
  readonly group: number;
  /** [rows, cols], a code a byte. */
  readonly codes: Uint8Array;
  /** [rows, groups], or where there are scaleCodes, [rows, blocks]. */
  readonly scales: StoredFloats;
  /** [rows, groups], or where there are zeroCodes, [rows, blocks]; without them, `middleCode(bits)` is 0 in every group. */
  readonly zeros?: Uint8Array | StoredFloats;
  /** [rows, groups]: integers, with or without a sign as `scaleCodes` and `zeroCodes` have it, a byte each. */
  readonly scaleCodes?: Uint8Array;
  readonly zeroCodes?: Uint8Array;
  /** [cols]: column i of the codes belongs to input order[i]. */
  readonly order?: Int32Array;
}

/** The code that is 0 where no zeros are given; of one bit, half way between the two. */
export function middleCode(bits: CodeBits): number {
  return bits === 1 ? 0.5 : 2 ** (bits - 1);
}

export function groupCount(cols: number, group: number): number {
  return Math.ceil(cols / group);
}
