/** Values to GGUF blocks: ternary ones exactly, floats by the usual roundings. */
import { f16ToF32, f32ToF16 } from '../../common/halves.ts';

/** Types that hold ternary weights exactly, but for the scale of those with a 16-bit one. */
export type TernaryGgufType = 'TQ1_0' | 'TQ2_0' | 'I2_S' | 'Q4_0' | 'Q8_0';

/** Values per block of trits: what the number of values handed to `encodeTrits` must be a multiple of. */
export const TERNARY_BLOCK: Readonly<Record<TernaryGgufType, number>> = {
  TQ1_0: 256,
  TQ2_0: 256,
  I2_S: 128,
  Q4_0: 32,
  Q8_0: 32,
};

/** Blocks of trits in row-major order; `scale` is the bits of the f16 scale, which I2_S has not in its blocks. */
export function encodeTrits(type: TernaryGgufType, trits: Int8Array, scale: number): Uint8Array {
  switch (type) {
    case 'TQ1_0':
      return encodeTq1(trits, scale);
    case 'TQ2_0':
      return encodeTq2(trits, scale);
    case 'I2_S':
      return encodeI2s(trits);
    case 'Q4_0':
      return encodeQ4Trits(trits, scale);
    case 'Q8_0':
      return encodeQ8Trits(trits, scale);
  }
}

/** Five base-3 digits as a fraction of 256, rounded up, so that multiplying by 3 gives them back one by one. */
function packDigits(digits: number): number {
  return Math.floor((digits * 256 + 242) / 243);
}

/**
 * TQ1_0, 54 bytes for 256: five trits a byte (the last four bytes have four), the first most significant.
 *
 * ```
 * byte m       0-31   values m + 32 n         n = 0..4
 *              32-47  values 160 + m + 16 n   n = 0..4
 *              48-51  values 240 + m + 4 n    n = 0..3
 *              52-53  f16 scale
 * ```
 */
function encodeTq1(trits: Int8Array, scale: number): Uint8Array {
  const blocks = trits.length / 256;
  const out = new Uint8Array(blocks * 54);
  for (let b = 0; b < blocks; b++) {
    const [from, to] = [b * 256, b * 54];
    const pack = (first: number, step: number, count: number) => {
      let digits = 0;
      for (let n = 0; n < 5; n++) digits = digits * 3 + (n < count ? trits[first + n * step]! + 1 : 0);
      return packDigits(digits);
    };
    for (let m = 0; m < 32; m++) out[to + m] = pack(from + m, 32, 5);
    for (let m = 0; m < 16; m++) out[to + 32 + m] = pack(from + 160 + m, 16, 5);
    for (let m = 0; m < 4; m++) out[to + 48 + m] = pack(from + 240 + m, 4, 4);
    out[to + 52] = scale & 255;
    out[to + 53] = scale >> 8;
  }
  return out;
}

/** TQ2_0, 66 bytes for 256: byte 32 h + m has the values 128 h + m + 32 l at bits 2 l; then the f16 scale. */
function encodeTq2(trits: Int8Array, scale: number): Uint8Array {
  const blocks = trits.length / 256;
  const out = new Uint8Array(blocks * 66);
  for (let b = 0; b < blocks; b++) {
    const [from, to] = [b * 256, b * 66];
    for (let m = 0; m < 64; m++) {
      const first = from + (m >> 5) * 128 + (m & 31);
      let byte = 0;
      for (let l = 0; l < 4; l++) byte |= (trits[first + 32 * l]! + 1) << (2 * l);
      out[to + m] = byte;
    }
    out[to + 64] = scale & 255;
    out[to + 65] = scale >> 8;
  }
  return out;
}

/** I2_S, 32 bytes for 128: byte p has the values p, 32 + p, 64 + p, 96 + p, the first at the highest bits. */
function encodeI2s(trits: Int8Array): Uint8Array {
  const out = new Uint8Array(trits.length / 4);
  for (let at = 0; at < out.length; at++) {
    const first = (at >> 5) * 128 + (at & 31);
    let byte = 0;
    for (let l = 0; l < 4; l++) byte = (byte << 2) | (trits[first + 32 * l]! + 1);
    out[at] = byte;
  }
  return out;
}

/** The end of an I2_S tensor: its scale as f32, and zeros. */
export function i2sTail(scale: number): Uint8Array {
  const tail = new Uint8Array(32);
  new DataView(tail.buffer).setFloat32(0, scale, true);
  return tail;
}

/** Q4_0, 18 bytes for 32: f16 scale; byte j has the values j (low) and 16 + j (high), 8 more than they are. */
function encodeQ4Trits(trits: Int8Array, scale: number): Uint8Array {
  const blocks = trits.length / 32;
  const out = new Uint8Array(blocks * 18);
  for (let b = 0; b < blocks; b++) {
    const [from, to] = [b * 32, b * 18];
    out[to] = scale & 255;
    out[to + 1] = scale >> 8;
    for (let j = 0; j < 16; j++) {
      out[to + 2 + j] = (trits[from + j]! + 8) | ((trits[from + 16 + j]! + 8) << 4);
    }
  }
  return out;
}

/** Q8_0, 34 bytes for 32: f16 scale, i8 values. */
function encodeQ8Trits(trits: Int8Array, scale: number): Uint8Array {
  const blocks = trits.length / 32;
  const out = new Uint8Array(blocks * 34);
  for (let b = 0; b < blocks; b++) {
    out[b * 34] = scale & 255;
    out[b * 34 + 1] = scale >> 8;
    for (let j = 0; j < 32; j++) out[b * 34 + 2 + j] = trits[b * 32 + j]!;
  }
  return out;
}

/** Adding and subtracting it rounds a float64 up to 2^51 to the nearest integer, ties to even. */
const ROUND = 1.5 * 2 ** 52;

/** Floats to Q8_0: the largest magnitude of a block of 32 is 127. */
export function encodeQ8Floats(values: Float32Array): Uint8Array {
  const blocks = values.length / 32;
  const out = new Uint8Array(blocks * 34);
  for (let b = 0; b < blocks; b++) {
    let largest = 0;
    for (let j = 0; j < 32; j++) largest = Math.max(largest, Math.abs(values[b * 32 + j]!));
    const scale = largest / 127;
    const bits = f32ToF16(scale);
    out[b * 34] = bits & 255;
    out[b * 34 + 1] = bits >> 8;
    const inverse = scale === 0 ? 0 : 1 / scale;
    for (let j = 0; j < 32; j++) {
      out[b * 34 + 2 + j] = values[b * 32 + j]! * inverse + ROUND - ROUND;
    }
  }
  return out;
}

/** The nearest integer from `low` to `high`. */
function nearest(value: number, low: number, high: number): number {
  const rounded = value + ROUND - ROUND;
  return Math.min(Math.max(rounded, low), high);
}

/**
 * The scale for 16 values with codes from -32 to 31 that loses least, among those near the one by which the
 * value of the largest magnitude is -32. Errors weigh by the square of the value, as llama.cpp has it.
 */
function bestScale(values: Float32Array, first: number): number {
  let extreme = 0;
  for (let j = 0; j < 16; j++) {
    const value = values[first + j]!;
    if (Math.abs(value) > Math.abs(extreme)) extreme = value;
  }
  if (extreme === 0) return 0;
  let best = extreme / -32;
  let bestGain = 0;
  for (let step = -4; step <= 4; step++) {
    const inverse = -(32 + 0.2 * step) / extreme;
    let sumVq = 0;
    let sumQq = 0;
    for (let j = 0; j < 16; j++) {
      const value = values[first + j]!;
      const code = nearest(value * inverse, -32, 31);
      const weighted = value * value * code;
      sumVq += weighted * value;
      sumQq += weighted * code;
    }
    // The best scale for these codes is sumVq / sumQq, and takes this much off the squared error.
    const gain = sumQq > 0 ? (sumVq * sumVq) / sumQq : 0;
    if (gain > bestGain) {
      bestGain = gain;
      best = sumVq / sumQq;
    }
  }
  return best;
}

/**
 * Floats to Q6_K, 210 bytes for 256: ql[128], qh[64], i8 scales[16], f16 d; codes are q - 32.
 *
 * ```
 * value 128 h + 32 s + l (h 0-1, s 0-3, l 0-31)
 *   low 4 bits   nibble s >> 1 of ql[64 h + 32 (s & 1) + l]
 *   high 2 bits  bits 2 s of qh[32 h + l]
 *   scale        scales[8 h + 2 s + (l >> 4)] * d
 * ```
 */
export function encodeQ6Floats(values: Float32Array): Uint8Array {
  const blocks = values.length / 256;
  const out = new Uint8Array(blocks * 210);
  const scales = new Float64Array(16);
  for (let b = 0; b < blocks; b++) {
    const [from, to] = [b * 256, b * 210];
    let extreme = 0;
    for (let s = 0; s < 16; s++) {
      const scale = bestScale(values, from + 16 * s);
      scales[s] = scale;
      if (Math.abs(scale) > Math.abs(extreme)) extreme = scale;
    }
    const bits = extreme === 0 ? 0 : f32ToF16(extreme / -128);
    const d = f16ToF32(bits);
    out[to + 208] = bits & 255;
    out[to + 209] = bits >> 8;
    if (d === 0) {
      // All zeros, or nearly: code 32 everywhere, which is 0.
      out.fill(0xaa, to + 128, to + 192);
      continue;
    }
    for (let s = 0; s < 16; s++) {
      const code = nearest(scales[s]! / d, -128, 127);
      out[to + 192 + s] = code;
      const scale = code * d;
      for (let j = 0; j < 16; j++) {
        const at = 16 * s + j;
        const q = (scale === 0 ? 0 : nearest(values[from + at]! / scale, -32, 31)) + 32;
        const half = at >> 7;
        const quarter = (at >> 5) & 3;
        const l = at & 31;
        const low = to + 64 * half + 32 * (quarter & 1) + l;
        out[low] = out[low]! | ((q & 15) << (4 * (quarter >> 1)));
        const high = to + 128 + 32 * half + l;
        out[high] = out[high]! | ((q >> 4) << (2 * quarter));
      }
    }
  }
  return out;
}
