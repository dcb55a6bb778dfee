/**
 * Blocks of GGUF as what they are: codes, and per group of them a scale and a zero point or minimum. One
 * function per type; layouts as in ggml's `dequantize_row_*`. Each of them is a plain reference, too: the
 * value of a code is `scale * (code - zero)`, or `scale * code - minimum` where there are minima.
 */
import { f16ToF32 } from '../../common/halves.ts';
import type { GgufType } from './types.ts';

export interface GroupedCodes {
  /** Bits a code needs at most. */
  readonly bits: 1 | 2 | 4 | 6 | 8;
  /** Codes that share a scale. */
  readonly group: number;
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
  /** The code that means 0, or per group what is subtracted. */
  readonly zero: number | Float32Array;
  /** Where these floats are products of a block's and of integers: they are computed where they are asked for. */
  readonly blocks?: BlockFactors;
}

/** Scales of blocks, as the bits of f16, and of groups in units of them, a byte each; minima likewise. */
export interface BlockFactors {
  readonly scales: Uint16Array;
  readonly scaleCodes: Uint8Array;
  readonly minima?: Uint16Array;
  readonly minimumCodes?: Uint8Array;
}

/** Types of codes with scales. */
export type GroupedType = Extract<
  GgufType,
  'Q4_0' | 'Q8_0' | 'Q2_K' | 'Q4_K' | 'Q6_K' | 'Q1_0' | 'Q2_0' | 'Q2_0_128' | 'TQ1_0' | 'TQ2_0'
>;

export interface GroupedForm {
  readonly bits: GroupedCodes['bits'];
  readonly group: number;
  /** Without it there are minima. */
  readonly zero?: number;
  /** Codes that share `BlockFactors`, and what those of groups are. */
  readonly block?: number;
  readonly scaleCodes?: 'u4' | 'u8' | 'i8';
}

/** What a tensor of the type looks like, before it is read. */
export const GROUPED: Readonly<Record<GroupedType, GroupedForm>> = {
  Q4_0: { bits: 4, group: 32, zero: 8 },
  Q8_0: { bits: 8, group: 32, zero: 128 },
  Q2_K: { bits: 2, group: 16, block: 256, scaleCodes: 'u4' },
  Q4_K: { bits: 4, group: 32, block: 256, scaleCodes: 'u8' },
  Q6_K: { bits: 6, group: 16, zero: 32, block: 256, scaleCodes: 'i8' },
  Q1_0: { bits: 1, group: 128, zero: 0.5 },
  Q2_0: { bits: 2, group: 64, zero: 1 },
  Q2_0_128: { bits: 2, group: 128, zero: 1 },
  TQ1_0: { bits: 2, group: 256, zero: 1 },
  TQ2_0: { bits: 2, group: 256, zero: 1 },
};

/** Bytes to codes and scales. `bytes` are whole blocks. */
export function decodeGroups(type: GroupedType, bytes: Uint8Array): GroupedCodes {
  return DECODERS[type](bytes);
}

const half = (bytes: Uint8Array, at: number) => f16ToF32(halfBits(bytes, at));

const halfBits = (bytes: Uint8Array, at: number) => bytes[at]! | (bytes[at + 1]! << 8);

/** The floats that scales of blocks and codes of groups make. */
function timesCodes(scales: Uint16Array, codes: ArrayLike<number>): Float32Array {
  const perBlock = codes.length / scales.length;
  return Float32Array.from(codes, (code, i) => f16ToF32(scales[Math.floor(i / perBlock)]!) * code);
}

/** Room for the factors of so many blocks of so many groups each, minima among them. */
function blockFactors(blocks: number, groups: number): Required<BlockFactors> {
  return {
    scales: new Uint16Array(blocks),
    minima: new Uint16Array(blocks),
    scaleCodes: new Uint8Array(blocks * groups),
    minimumCodes: new Uint8Array(blocks * groups),
  };
}

/** Codes of groups with minima. */
function withMinima(
  bits: GroupedCodes['bits'],
  group: number,
  codes: Uint8Array,
  blocks: Required<BlockFactors>,
): GroupedCodes {
  return {
    bits,
    group,
    codes,
    blocks,
    get scales() {
      return timesCodes(blocks.scales, blocks.scaleCodes);
    },
    get zero() {
      return timesCodes(blocks.minima, blocks.minimumCodes);
    },
  };
}

const DECODERS: Readonly<Record<GroupedType, (bytes: Uint8Array) => GroupedCodes>> = {
  Q4_0: decodeQ4,
  Q8_0: decodeQ8,
  Q2_K: decodeQ2K,
  Q4_K: decodeQ4K,
  Q6_K: decodeQ6K,
  Q1_0: decodeQ1,
  Q2_0: (bytes) => decodeQ2(bytes, 64),
  Q2_0_128: (bytes) => decodeQ2(bytes, 128),
  TQ1_0: decodeTq1,
  TQ2_0: decodeTq2,
};

/** 18 bytes for 32: f16 scale; byte j has the values j (low) and 16 + j (high). */
function decodeQ4(bytes: Uint8Array): GroupedCodes {
  const blocks = bytes.length / 18;
  const codes = new Uint8Array(blocks * 32);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    scales[b] = half(bytes, b * 18);
    for (let j = 0; j < 16; j++) {
      const byte = bytes[b * 18 + 2 + j]!;
      codes[b * 32 + j] = byte & 15;
      codes[b * 32 + 16 + j] = byte >> 4;
    }
  }
  return { bits: 4, group: 32, codes, scales, zero: 8 };
}

/** 34 bytes for 32: f16 scale, i8 values. */
function decodeQ8(bytes: Uint8Array): GroupedCodes {
  const blocks = bytes.length / 34;
  const codes = new Uint8Array(blocks * 32);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    scales[b] = half(bytes, b * 34);
    for (let j = 0; j < 32; j++) codes[b * 32 + j] = bytes[b * 34 + 2 + j]! ^ 0x80;
  }
  return { bits: 8, group: 32, codes, scales, zero: 128 };
}

/**
 * 84 bytes for 256: 16 bytes with a scale (low 4 bits) and a minimum (high) for 16 values each, 64 bytes of
 * codes, f16 d, f16 dmin. Value 128 h + 32 s + l is at bits 2 s of byte 32 h + l.
 */
function decodeQ2K(bytes: Uint8Array): GroupedCodes {
  const blocks = bytes.length / 84;
  const codes = new Uint8Array(blocks * 256);
  const factors = blockFactors(blocks, 16);
  const { scales, minima, scaleCodes, minimumCodes } = factors;
  for (let b = 0; b < blocks; b++) {
    const at = b * 84;
    scales[b] = halfBits(bytes, at + 80);
    minima[b] = halfBits(bytes, at + 82);
    for (let g = 0; g < 16; g++) {
      scaleCodes[b * 16 + g] = bytes[at + g]! & 15;
      minimumCodes[b * 16 + g] = bytes[at + g]! >> 4;
    }
    for (let i = 0; i < 256; i++) {
      codes[b * 256 + i] = (bytes[at + 16 + 32 * (i >> 7) + (i & 31)]! >> (2 * ((i >> 5) & 3))) & 3;
    }
  }
  return withMinima(2, 16, codes, factors);
}

/**
 * 144 bytes for 256: f16 d, f16 dmin, 12 bytes with eight 6-bit scales and minima, 128 bytes of codes. Value
 * 64 p + l is the low nibble of byte 32 p + l, value 64 p + 32 + l the high one.
 *
 * ```
 * byte   0-3                       4-7                          8-11
 * bits 0-5  scale j                   minimum j                 0-3 scale 4 + j, low  4-7 minimum 4 + j, low
 * bits 6-7  scale 4 + j, high         minimum 4 + j, high
 * ```
 */
function decodeQ4K(bytes: Uint8Array): GroupedCodes {
  const blocks = bytes.length / 144;
  const codes = new Uint8Array(blocks * 256);
  const factors = blockFactors(blocks, 8);
  const { scales, minima, scaleCodes, minimumCodes } = factors;
  for (let b = 0; b < blocks; b++) {
    const at = b * 144;
    scales[b] = halfBits(bytes, at);
    minima[b] = halfBits(bytes, at + 2);
    for (let j = 0; j < 4; j++) {
      const [low, high, rest] = [bytes[at + 4 + j]!, bytes[at + 8 + j]!, bytes[at + 12 + j]!];
      scaleCodes[b * 8 + j] = low & 63;
      minimumCodes[b * 8 + j] = high & 63;
      scaleCodes[b * 8 + 4 + j] = (rest & 15) | ((low >> 6) << 4);
      minimumCodes[b * 8 + 4 + j] = (rest >> 4) | ((high >> 6) << 4);
    }
    for (let i = 0; i < 256; i++) {
      const byte = bytes[at + 16 + 32 * (i >> 6) + (i & 31)]!;
      codes[b * 256 + i] = (i & 32) === 0 ? byte & 15 : byte >> 4;
    }
  }
  return withMinima(4, 32, codes, factors);
}

/** 210 bytes for 256: see `encodeQ6Floats`. */
function decodeQ6K(bytes: Uint8Array): GroupedCodes {
  const blocks = bytes.length / 210;
  const codes = new Uint8Array(blocks * 256);
  const scales = new Uint16Array(blocks);
  const scaleCodes = new Uint8Array(blocks * 16);
  for (let b = 0; b < blocks; b++) {
    const at = b * 210;
    scales[b] = halfBits(bytes, at + 208);
    scaleCodes.set(bytes.subarray(at + 192, at + 208), b * 16);
    for (let i = 0; i < 256; i++) {
      const h = i >> 7;
      const s = (i >> 5) & 3;
      const l = i & 31;
      const low = (bytes[at + 64 * h + 32 * (s & 1) + l]! >> (4 * (s >> 1))) & 15;
      const high = (bytes[at + 128 + 32 * h + l]! >> (2 * s)) & 3;
      codes[b * 256 + i] = low | (high << 4);
    }
  }
  return {
    bits: 6,
    group: 16,
    codes,
    zero: 32,
    blocks: { scales, scaleCodes },
    get scales() {
      return timesCodes(scales, new Int8Array(scaleCodes.buffer));
    },
  };
}

/** 18 bytes for 128: f16 d, then one bit a value, lowest first: 1 is d, 0 is -d, so that 0 would be code 1/2. */
function decodeQ1(bytes: Uint8Array): GroupedCodes {
  const blocks = bytes.length / 18;
  const codes = new Uint8Array(blocks * 128);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    scales[b] = 2 * half(bytes, b * 18);
    for (let i = 0; i < 128; i++) codes[b * 128 + i] = (bytes[b * 18 + 2 + (i >> 3)]! >> (i & 7)) & 1;
  }
  return { bits: 1, group: 128, codes, scales, zero: 0.5 };
}

/** f16 d, then two bits a value, lowest first: (code - 1) d, so that there is a 2, too. */
function decodeQ2(bytes: Uint8Array, group: 64 | 128): GroupedCodes {
  const size = 2 + group / 4;
  const blocks = bytes.length / size;
  const codes = new Uint8Array(blocks * group);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    scales[b] = half(bytes, b * size);
    for (let i = 0; i < group; i++) {
      codes[b * group + i] = (bytes[b * size + 2 + (i >> 2)]! >> (2 * (i & 3))) & 3;
    }
  }
  return { bits: 2, group, codes, scales, zero: 1 };
}

/** 54 bytes for 256: see `encodeTq1` for the order. A byte times 3^n, modulo 256, times 3, has trit n above bit 8. */
function decodeTq1(bytes: Uint8Array): GroupedCodes {
  const blocks = bytes.length / 54;
  const codes = new Uint8Array(blocks * 256);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    const [at, to] = [b * 54, b * 256];
    scales[b] = half(bytes, at + 52);
    const unpack = (byte: number, first: number, step: number, count: number) => {
      let rest = byte;
      for (let n = 0; n < count; n++) {
        codes[first + n * step] = (rest * 3) >> 8;
        rest = (rest * 3) & 255;
      }
    };
    for (let m = 0; m < 32; m++) unpack(bytes[at + m]!, to + m, 32, 5);
    for (let m = 0; m < 16; m++) unpack(bytes[at + 32 + m]!, to + 160 + m, 16, 5);
    for (let m = 0; m < 4; m++) unpack(bytes[at + 48 + m]!, to + 240 + m, 4, 4);
  }
  return { bits: 2, group: 256, codes, scales, zero: 1 };
}

/** 66 bytes for 256: see `encodeTq2`. */
function decodeTq2(bytes: Uint8Array): GroupedCodes {
  const blocks = bytes.length / 66;
  const codes = new Uint8Array(blocks * 256);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    scales[b] = half(bytes, b * 66 + 64);
    for (let i = 0; i < 256; i++) {
      codes[b * 256 + i] = (bytes[b * 66 + 32 * (i >> 7) + (i & 31)]! >> (2 * ((i >> 5) & 3))) & 3;
    }
  }
  return { bits: 2, group: 256, codes, scales, zero: 1 };
}

/** The values, each operation rounded to f32 as ggml does it. */
export function dequantizeGroups({ group, codes, scales, zero }: GroupedCodes): Float32Array {
  const values = new Float32Array(codes.length);
  for (let i = 0; i < values.length; i++) {
    const g = Math.floor(i / group);
    values[i] =
      typeof zero === 'number'
        ? scales[g]! * (codes[i]! - zero)
        : Math.fround(scales[g]! * codes[i]!) - zero[g]!;
  }
  return values;
}
