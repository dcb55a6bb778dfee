/**
 * The 16-bit float formats, as bits in a Uint16Array.
 *
 * ```
 * f16   s eeeee mmmmmmmmmm     bias 15, subnormals, max 65504
 * bf16  s eeeeeeee mmmmmmm     the upper half of an f32
 * ```
 *
 * Widening is exact. Narrowing rounds the f32 value to nearest, ties to even; too large becomes infinity;
 * a NaN stays a NaN, made quiet, with the upper bits of its payload.
 */
export type HalfFormat = 'f16' | 'bf16';

const floatView = new Float32Array(1);
const bitsView = new Uint32Array(floatView.buffer);

function bitsOf(value: number): number {
  floatView[0] = value;
  return bitsView[0]!;
}

function fromBits(bits: number): number {
  bitsView[0] = bits;
  return floatView[0]!;
}

export function bf16ToF32(bits: number): number {
  return fromBits(bits << 16);
}

export function f32ToBf16(value: number): number {
  const bits = bitsOf(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) | 0x40) & 0xffff;
  // Adding just under half an ulp, and one more when the kept part is odd, carries exactly when it rounds up.
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function f16ToF32(bits: number): number {
  const sign = (bits & 0x8000) << 16;
  const exponent = (bits >>> 10) & 31;
  const mantissa = bits & 0x3ff;
  if (exponent === 31) return fromBits(sign | 0x7f800000 | (mantissa << 13));
  if (exponent > 0) return fromBits(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const magnitude = mantissa * 2 ** -24;
  return sign === 0 ? magnitude : -magnitude;
}

export function f32ToF16(value: number): number {
  const bits = bitsOf(value);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520, half way between the maximum and 65536
  if (magnitude >= 0x38800000) {
    const rebased = magnitude - (112 << 23);
    return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
  }
  if (magnitude <= 0x33000000) return sign; // 2^-25, half the smallest subnormal
  // Subnormal: the significand, counted in units of 2^-24.
  const shift = 126 - (magnitude >>> 23);
  const significand = (magnitude & 0x7fffff) | 0x800000;
  const half = 1 << (shift - 1);
  const kept = significand >>> shift;
  return sign | ((significand + half - 1 + (kept & 1)) >>> shift);
}

let f16Table: Float32Array | undefined;

/** The f32 value of each of the 65536 bit patterns of f16. */
function f16Values(): Float32Array {
  f16Table ??= Float32Array.from({ length: 0x10000 }, (_, bits) => f16ToF32(bits));
  return f16Table;
}

export function widenHalves(bits: Uint16Array, format: HalfFormat): Float32Array {
  const values = new Float32Array(bits.length);
  if (format === 'bf16') {
    const words = new Uint32Array(values.buffer);
    for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  } else {
    const table = f16Values();
    for (let i = 0; i < bits.length; i++) values[i] = table[bits[i]!]!;
  }
  return values;
}

export function narrowFloats(values: Float32Array, format: HalfFormat): Uint16Array {
  const bits = new Uint16Array(values.length);
  const narrow = format === 'bf16' ? f32ToBf16 : f32ToF16;
  for (let i = 0; i < values.length; i++) bits[i] = narrow(values[i]!);
  return bits;
}
