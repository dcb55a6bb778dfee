import { LutraError } from '../common/errors.ts';
import { bf16ToF32, f16ToF32, type HalfFormat } from '../common/halves.ts';
import type { StoredFloats } from './tensors.ts';

/**
 * Rows of a ternary matrix, as a checkpoint gives them.
 *
 * `packed` is Hugging Face's BitNet packing: [rows/4, cols] bytes, in which byte row r holds four rows of
 * the matrix, quarter of it apart, as code = trit + 1:
 *
 * ```
 * bits   76 54 32 10
 * row    r+3q r+2q r+q r        q = rows/4
 * ```
 */
export type TernaryRows =
  | { readonly form: 'trits'; readonly rows: number; readonly trits: Int8Array }
  | { readonly form: 'packed'; readonly rows: number; readonly bytes: Uint8Array };

/** The rows as trits, [rows, cols]. */
export function tritsOf(block: TernaryRows): Int8Array {
  if (block.form === 'trits') return block.trits;
  const { bytes } = block;
  const quarter = bytes.length;
  const trits = new Int8Array(quarter * 4);
  for (let i = 0; i < quarter; i++) {
    const byte = bytes[i]!;
    trits[i] = (byte & 3) - 1;
    trits[i + quarter] = ((byte >> 2) & 3) - 1;
    trits[i + 2 * quarter] = ((byte >> 4) & 3) - 1;
    trits[i + 3 * quarter] = (byte >> 6) - 1;
  }
  return trits;
}

/** Throws `invalid`, naming the tensor, when any two bits hold 3, which is no code of a trit. */
export function checkCodes(bytes: Uint8Array, tensor: string): void {
  const whole = bytes.length >> 2;
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, whole);
  let both = 0;
  for (let i = 0; i < whole; i++) both |= words[i]! & (words[i]! >>> 1);
  for (let i = whole * 4; i < bytes.length; i++) both |= bytes[i]! & (bytes[i]! >>> 1);
  if ((both & 0x55555555) === 0) return;
  const at = bytes.findIndex((byte) => (byte & (byte >> 1) & 0x55) !== 0);
  throw new LutraError(
    'invalid',
    `tensor ${tensor}: byte ${at} holds the code 3, which no ternary weight has`,
    {
      hint: 'The weights are damaged, or are packed in a way other than that of Hugging Face transformers.',
    },
  );
}

/** 16-bit floats are counted by magnitude first: there are only 32768, so the sum is exact and fast. */
function sumOfHalves(bits: Uint16Array, magnitudeOf: (bits: number) => number): number {
  const counts = new Uint32Array(0x8000);
  for (let i = 0; i < bits.length; i++) counts[bits[i]! & 0x7fff]!++;
  let sum = 0;
  for (let m = 0; m < counts.length; m++) if (counts[m]! > 0) sum += counts[m]! * magnitudeOf(m);
  return sum;
}

const VALUE_OF: Readonly<Record<HalfFormat, (bits: number) => number>> = { f16: f16ToF32, bf16: bf16ToF32 };

/** s = 1/max(mean|w|, 1e-5), an f32, the sum in float64. Throws `invalid` for weights that are not finite. */
export function inverseAbsMean(weights: StoredFloats, tensor: string): number {
  let sum = 0;
  let count: number;
  if (weights.dtype === 'f32') {
    const { values } = weights;
    count = values.length;
    for (let i = 0; i < count; i++) sum += Math.abs(values[i]!);
  } else {
    count = weights.bits.length;
    sum = sumOfHalves(weights.bits, VALUE_OF[weights.dtype]);
  }
  if (!Number.isFinite(sum))
    throw new LutraError('invalid', `tensor ${tensor} has weights that are not finite`);
  return Math.fround(1 / Math.fround(Math.max(sum / count, 1e-5)));
}

/**
 * clamp(round-half-even(w s), -1, 1) with s of `inverseAbsMean`, in f32 as transformers' `WeightQuant`. Since that
 * rounds to 0 up to |w s| = 0.5, it is a comparison.
 */
export function absMeanTrit(w: number, s: number): number {
  return Math.fround(Math.abs(w) * s) <= 0.5 ? 0 : Math.sign(w);
}

/** `absMeanTrit` of all; for 16-bit floats, by a comparison of their bits. */
export function quantizeAbsMean(weights: StoredFloats, s: number): Int8Array {
  if (weights.dtype === 'f32') return Int8Array.from(weights.values, (w) => absMeanTrit(w, s));
  const { bits } = weights;
  const magnitudeOf = VALUE_OF[weights.dtype];
  let last = 0;
  // The largest magnitude that becomes 0: values grow with their bits.
  for (let step = 0x4000; step > 0; step >>= 1)
    if (absMeanTrit(magnitudeOf(last + step), s) === 0) last += step;
  const trits = new Int8Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const b = bits[i]!;
    // All ones when |w| becomes 1; times the sign. A branch here would be mispredicted every third time.
    trits[i] = ((last - (b & 0x7fff)) >> 31) & (1 - ((b >> 14) & 2));
  }
  return trits;
}
