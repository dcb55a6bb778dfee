/**
 * Blocks are made here field by field, and values computed from the same fields in float64: what a code
 * means comes from the formulas of the formats, not from the code under test.
 */
import { expect, test } from 'vitest';
import { f16ToF32 } from '../../common/halves.ts';
import { randomUniform } from '../../common/random.ts';
import { encodeQ6Floats, encodeQ8Floats } from './encode.ts';
import { decodeGroups, dequantizeGroups, GROUPED, type GroupedType } from './groups.ts';
import { GGUF_TYPES } from './types.ts';

const BLOCKS = 5;

interface Block {
  readonly bytes: Uint8Array;
  /** Exact values: every factor has few bits. */
  readonly values: Float64Array;
}

type Maker = (random: (below: number) => number) => Block;

/** Bits `[at, at + count)` of a block, counted from bit 0 of byte 0. */
function setBits(bytes: Uint8Array, at: number, count: number, value: number): void {
  for (let i = 0; i < count; i++) {
    const bit = at + i;
    bytes[bit >> 3] = bytes[bit >> 3]! | (((value >> i) & 1) << (bit & 7));
  }
}

/** A finite half that is no subnormal, written at a byte. */
function half(bytes: Uint8Array, at: number, random: (below: number) => number): number {
  const bits = (random(2) << 15) | ((10 + random(8)) << 10) | random(1024);
  setBits(bytes, at * 8, 16, bits);
  return f16ToF32(bits);
}

const MAKERS: Readonly<Record<GroupedType, Maker>> = {
  Q4_0(random) {
    const bytes = new Uint8Array(18);
    const d = half(bytes, 0, random);
    const values = Float64Array.from({ length: 32 }, (_, i) => {
      const q = random(16);
      setBits(bytes, 16 + 8 * (i % 16) + (i < 16 ? 0 : 4), 4, q);
      return (q - 8) * d;
    });
    return { bytes, values };
  },
  Q8_0(random) {
    const bytes = new Uint8Array(34);
    const d = half(bytes, 0, random);
    const values = Float64Array.from({ length: 32 }, (_, i) => {
      const q = random(256) - 128;
      setBits(bytes, 16 + 8 * i, 8, q & 255);
      return q * d;
    });
    return { bytes, values };
  },
  Q2_K(random) {
    const bytes = new Uint8Array(84);
    const d = half(bytes, 80, random);
    const dmin = half(bytes, 82, random);
    const pairs = Array.from({ length: 16 }, (_, g) => {
      const pair = [random(16), random(16)] as const;
      setBits(bytes, 8 * g, 4, pair[0]);
      setBits(bytes, 8 * g + 4, 4, pair[1]);
      return pair;
    });
    const values = new Float64Array(256);
    for (let h = 0; h < 2; h++) {
      for (let s = 0; s < 4; s++) {
        for (let l = 0; l < 32; l++) {
          const q = random(4);
          setBits(bytes, 8 * (16 + 32 * h + l) + 2 * s, 2, q);
          const [scale, min] = pairs[8 * h + 2 * s + Math.floor(l / 16)]!;
          values[128 * h + 32 * s + l] = d * scale * q - dmin * min;
        }
      }
    }
    return { bytes, values };
  },
  Q4_K(random) {
    const bytes = new Uint8Array(144);
    const d = half(bytes, 0, random);
    const dmin = half(bytes, 2, random);
    const values = new Float64Array(256);
    for (let g = 0; g < 8; g++) {
      const [scale, min] = [random(64), random(64)];
      if (g < 4) {
        setBits(bytes, 8 * (4 + g), 6, scale);
        setBits(bytes, 8 * (8 + g), 6, min);
      } else {
        setBits(bytes, 8 * (8 + g), 4, scale & 15);
        setBits(bytes, 8 * (8 + g) + 4, 4, min & 15);
        setBits(bytes, 8 * g + 6, 2, scale >> 4);
        setBits(bytes, 8 * (4 + g) + 6, 2, min >> 4);
      }
      for (let l = 0; l < 32; l++) {
        const q = random(16);
        setBits(bytes, 8 * (16 + 32 * (g >> 1) + l) + 4 * (g & 1), 4, q);
        values[32 * g + l] = d * scale * q - dmin * min;
      }
    }
    return { bytes, values };
  },
  Q6_K(random) {
    const bytes = new Uint8Array(210);
    const d = half(bytes, 208, random);
    const scales = Array.from({ length: 16 }, (_, g) => {
      const scale = random(256) - 128;
      setBits(bytes, 8 * (192 + g), 8, scale & 255);
      return scale;
    });
    const values = new Float64Array(256);
    for (let h = 0; h < 2; h++) {
      for (let s = 0; s < 4; s++) {
        for (let l = 0; l < 32; l++) {
          const q = random(64);
          setBits(bytes, 8 * (64 * h + 32 * (s % 2) + l) + 4 * Math.floor(s / 2), 4, q & 15);
          setBits(bytes, 8 * (128 + 32 * h + l) + 2 * s, 2, q >> 4);
          values[128 * h + 32 * s + l] = (q - 32) * d * scales[8 * h + 2 * s + Math.floor(l / 16)]!;
        }
      }
    }
    return { bytes, values };
  },
  Q1_0(random) {
    const bytes = new Uint8Array(18);
    const d = half(bytes, 0, random);
    const values = Float64Array.from({ length: 128 }, (_, i) => {
      const bit = random(2);
      setBits(bytes, 16 + i, 1, bit);
      return bit === 1 ? d : -d;
    });
    return { bytes, values };
  },
  Q2_0: (random) => twoBits(64, random),
  Q2_0_128: (random) => twoBits(128, random),
  TQ1_0(random) {
    const bytes = new Uint8Array(54);
    const d = half(bytes, 52, random);
    const values = new Float64Array(256);
    const put = (byte: number, places: readonly number[]) => {
      let number = 0;
      for (let n = 0; n < 5; n++) {
        const trit = n < places.length ? random(3) : 0;
        number += trit * 3 ** (4 - n);
        if (n < places.length) values[places[n]!] = (trit - 1) * d;
      }
      bytes[byte] = Math.ceil((256 * number) / 243);
    };
    const steps = (first: number, step: number, count: number) =>
      Array.from({ length: count }, (_, n) => first + n * step);
    for (let m = 0; m < 32; m++) put(m, steps(m, 32, 5));
    for (let m = 0; m < 16; m++) put(32 + m, steps(160 + m, 16, 5));
    for (let m = 0; m < 4; m++) put(48 + m, steps(240 + m, 4, 4));
    return { bytes, values };
  },
  TQ2_0(random) {
    const bytes = new Uint8Array(66);
    const d = half(bytes, 64, random);
    const values = new Float64Array(256);
    for (let h = 0; h < 2; h++) {
      for (let m = 0; m < 32; m++) {
        for (let l = 0; l < 4; l++) {
          const q = random(3);
          setBits(bytes, 8 * (32 * h + m) + 2 * l, 2, q);
          values[128 * h + m + 32 * l] = (q - 1) * d;
        }
      }
    }
    return { bytes, values };
  },
};

function twoBits(count: number, random: (below: number) => number): Block {
  const bytes = new Uint8Array(2 + count / 4);
  const d = half(bytes, 0, random);
  const values = Float64Array.from({ length: count }, (_, i) => {
    const q = random(4);
    setBits(bytes, 16 + 2 * i, 2, q);
    return (q - 1) * d;
  });
  return { bytes, values };
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

test.each(Object.keys(MAKERS) as GroupedType[])('%s has the values of its definition', (type) => {
  const uniform = randomUniform(21);
  const blocks = Array.from({ length: BLOCKS }, () => MAKERS[type]((below) => Math.floor(uniform() * below)));
  const bytes = joined(blocks.map((block) => block.bytes));
  const expected = blocks.flatMap((block) => [...block.values]);
  expect(bytes).toHaveLength(BLOCKS * GGUF_TYPES[type].bytes);
  expect(expected).toHaveLength(BLOCKS * GGUF_TYPES[type].block);

  const groups = decodeGroups(type, bytes);
  const { block, scaleCodes, ...form } = GROUPED[type];
  const { bits, group, zero } = groups;
  expect({ bits, group, ...(typeof zero === 'number' ? { zero } : {}) }).toEqual(form);
  if (block === undefined) expect(groups.blocks).toBeUndefined();
  else {
    // Scales of groups are the products of their block's and of codes; and so are minima.
    const { scales, minima, ...codes } = groups.blocks!;
    const read = (bytes: Uint8Array) => (scaleCodes === 'i8' ? new Int8Array(bytes.buffer) : bytes);
    const perBlock = block / group;
    const products = (floats: Uint16Array, integers: Uint8Array) =>
      Array.from(read(integers), (code, i) => f16ToF32(floats[Math.floor(i / perBlock)]!) * code);
    expect(products(scales, codes.scaleCodes)).toEqual([...groups.scales]);
    if (minima !== undefined)
      expect(products(minima, codes.minimumCodes!)).toEqual([...(zero as Float32Array)]);
  }
  expect(groups.scales).toHaveLength(expected.length / groups.group);
  expect(Math.max(...groups.codes)).toBeLessThan(2 ** groups.bits);
  // Factors are exact in f32; with minima, one subtraction rounds.
  const plain = (value: number) => Math.fround(value) + 0; // -0 is 0
  expect(Array.from(dequantizeGroups(groups), plain)).toEqual(expected.map(plain));
  for (const [i, value] of expected.entries()) {
    const g = Math.floor(i / groups.group);
    const zero = typeof groups.zero === 'number' ? groups.scales[g]! * groups.zero : groups.zero[g]!;
    expect(groups.scales[g]! * groups.codes[i]! - zero).toBeCloseTo(value, 12);
  }
});

test('floats become Q8_0 and Q6_K with the error that their steps allow', () => {
  const uniform = randomUniform(22);
  const values = Float32Array.from({ length: 2048 }, (_, i) => (uniform() - 0.5) * (1 + (i >> 8)));
  values.fill(0, 512, 800);
  const q8 = dequantizeGroups(decodeGroups('Q8_0', encodeQ8Floats(values)));
  const q6 = dequantizeGroups(decodeGroups('Q6_K', encodeQ6Floats(values)));
  let [error, energy] = [0, 0];
  for (let i = 0; i < values.length; i++) {
    const block = values.subarray(i - (i % 32), i - (i % 32) + 32);
    const largest = block.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    // Half a step, and the rounding of the scale to 11 bits.
    expect(Math.abs(q8[i]! - values[i]!)).toBeLessThanOrEqual((largest / 127) * (0.5 + 127 / 2048));
    error += (q6[i]! - values[i]!) ** 2;
    energy += values[i]! ** 2;
  }
  expect(q6.subarray(512, 768).every((value) => value === 0)).toBe(true);
  // A step of 1/31 of the largest of 16 uniform values: (1/31)^2 / 12 against 1/3 is 2.6e-4.
  expect(error / energy).toBeLessThan(4e-4);
  expect(error / energy).toBeGreaterThan(1e-5);
});
