/**
 * Which order the blocks of I2_S have, told by the weights: nothing in a file says it, and every code is
 * valid in both.
 *
 * The columns of a matrix are the channels of the norm before it. A channel's gain and how many of the
 * column's weights are not zero go together in trained models; in the wrong order, columns stand for other
 * channels, and the correlation falls to that of strangers. On the embedded model the sum over its matrices
 * is 35 standard deviations in the right order and 9 in the wrong one.
 */
import type { I2sOrder } from './ternary.ts';

export interface OrderEvidence {
  /** Bytes of an I2_S matrix, its tail left out. */
  readonly bytes: Uint8Array;
  readonly cols: number;
  /** The norm before the matrix, [cols]. */
  readonly gains: Float32Array;
}

/** Standard deviations by which one order must be ahead: for weights that tell nothing, 1 in 50,000. */
const MARGIN = 6;

/** The order that the matrices speak for; undefined when they do not, as random ones. */
export function guessOrder(evidence: readonly OrderEvidence[]): I2sOrder | undefined {
  let ahead = 0;
  let count = 0;
  for (const { bytes, cols, gains } of evidence) {
    // Only then does a block of either order have the same columns in every row.
    if (cols % 128 !== 0) continue;
    const filled = countFilled(bytes, cols);
    const logs = Float64Array.from(gains, (gain) => Math.log(Math.abs(gain) + 1e-9));
    const x86 = correlation(byColumn(filled, 32), logs);
    const arm = correlation(byColumn(filled, 16), logs);
    if (!Number.isFinite(x86) || !Number.isFinite(arm)) continue;
    ahead += (Math.abs(x86) - Math.abs(arm)) * Math.sqrt(cols);
    count++;
  }
  const deviations = count === 0 ? 0 : ahead / Math.sqrt(count);
  if (Math.abs(deviations) < MARGIN) return undefined;
  return deviations > 0 ? 'x86' : 'arm';
}

/** Weights that are not zero at each place of a row, 4 places a byte, highest bits first. */
function countFilled(bytes: Uint8Array, cols: number): Float64Array {
  const filled = new Float64Array(cols);
  const rowBytes = cols / 4;
  for (let at = 0; at < bytes.length; at++) {
    const place = (at % rowBytes) * 4;
    const byte = bytes[at]!;
    // Codes 0 and 2 are -1 and 1: those with a low bit of 0.
    for (let l = 0; l < 4; l++) if (((byte >> (6 - 2 * l)) & 1) === 0) filled[place + l]!++;
  }
  return filled;
}

/** Places to columns, where a block of `step` bytes has its four fields `step` columns apart. */
function byColumn(filled: Float64Array, step: number): Float64Array {
  const columns = new Float64Array(filled.length);
  for (let place = 0; place < filled.length; place++) {
    const byte = place >> 2;
    columns[Math.floor(byte / step) * step * 4 + (place & 3) * step + (byte % step)] = filled[place]!;
  }
  return columns;
}

function correlation(a: Float64Array, b: Float64Array): number {
  const mean = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [meanA, meanB] = [mean(a), mean(b)];
  let [both, onlyA, onlyB] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i]! - meanA, b[i]! - meanB];
    both += x * y;
    onlyA += x * x;
    onlyB += y * y;
  }
  return both / Math.sqrt(onlyA * onlyB);
}
