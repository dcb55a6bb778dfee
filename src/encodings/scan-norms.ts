/**
 * What bounds how far a scan of a packed table can be from the stored one. For each row w, packed as p, two f32:
 *
 * ```
 * error[row]  >= |w - p| + ALLOWANCE(k) |w|'     f32 [pad(rows)], then
 * packed[row] >= |p|                             f32 [pad(rows)]
 * ```
 * with |w|' the larger of |w| and |p|. For activations x that the scan reads as x + d,
 *
 *   | scan - exact | <= |x| error[row] + |d| packed[row]
 *
 * by Cauchy-Schwarz: w.x - p.(x + d) = (w - p).x - p.d. The allowance is for the roundings of f32: those of the
 * exact kernel (a partial sum of every 32nd column, then 5 additions and a product), those of the scan (one sum
 * over the groups, of exact sums that have one rounding each, two for the scales, and one to read the activations
 * at most), those of the bound itself and of the addition to the scan. Each is at most 2^-24 of a term, and the
 * terms of either computation add up to at most |x| |w|' in magnitude.
 */
import { alignUp } from '../common/math.ts';
import type { RowNorms } from './grouped-rows.ts';

const PAD = 64;

/** Roundings on the longest way from a term to a result, and some to spare, times the unit roundoff. */
const allowance = (cols: number) => (alignUp(cols, PAD) * (1 / 32 + 1 / 32) + 64) * 2 ** -24;

/** Makes up for every rounding of the norms themselves, here and where they are multiplied. */
const MARGIN = 1 + 2 ** -9;

export function scanNormsBytes(rows: number): number {
  return 2 * alignUp(rows, PAD) * 4;
}

export function packScanNorms({ error, packed, stored }: RowNorms, cols: number): Uint8Array {
  const padded = alignUp(error.length, PAD);
  const norms = new Float32Array(2 * padded);
  for (let r = 0; r < error.length; r++) {
    const size = Math.max(stored[r]!, packed[r]!);
    norms[r] = (error[r]! + allowance(cols) * size) * MARGIN;
    norms[padded + r] = packed[r]! * MARGIN;
  }
  return new Uint8Array(norms.buffer);
}
