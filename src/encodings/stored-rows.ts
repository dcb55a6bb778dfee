/** What packing tables of floats by rows takes. */
import { type StoredFloats, toF32 } from '../models/tensors.ts';

/** Rows `from` to `from` + `count` of a table of `cols` columns; they share its memory. */
export function rowsOf(stored: StoredFloats, from: number, count: number, cols: number): StoredFloats {
  const [begin, end] = [from * cols, (from + count) * cols];
  return stored.dtype === 'f32'
    ? { dtype: 'f32', values: stored.values.subarray(begin, end) }
    : { ...stored, bits: stored.bits.subarray(begin, end) };
}

/** Row `r` as f32, to be read only. */
export function readRow(stored: StoredFloats, r: number, cols: number): Float32Array {
  return toF32(rowsOf(stored, r, 1, cols));
}

/** Adding and subtracting it rounds a small float64 to an integer, ties to even. */
export const ROUND = 1.5 * 2 ** 52;
