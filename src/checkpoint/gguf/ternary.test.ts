import { describe, expect, test } from 'vitest';
import { narrowFloats } from '../../common/halves.ts';
import { randomUniform } from '../../common/random.ts';
import { refusal } from '../../common/testing.ts';
import { encodeTrits, i2sTail, type TernaryGgufType } from './encode.ts';
import { guessOrder, type OrderEvidence } from './i2s-order.ts';
import { decodeTernary, type I2sOrder, packTrits, type TernaryRequest } from './ternary.ts';

const ROWS = 8;
const COLS = 512;
const F16_HALF = 0x3800;

function randomTrits(count: number, seed: number): Int8Array {
  const uniform = randomUniform(seed);
  return Int8Array.from({ length: count }, () => Math.floor(uniform() * 3) - 1);
}

const request = (type: TernaryRequest['type'], order: I2sOrder = 'x86'): TernaryRequest => ({
  type,
  rows: ROWS,
  cols: COLS,
  tensor: 't',
  order,
});

/** I2_S by its definition: in blocks of 4 n values, byte p has those at p, n + p, 2 n + p, 3 n + p. */
function i2s(trits: Int8Array, n: 32 | 16, scale: number): Uint8Array {
  const bytes: number[] = [];
  for (let first = 0; first < trits.length; first += 4 * n) {
    for (let p = 0; p < n; p++) {
      const [a, b, c, d] = [0, 1, 2, 3].map((l) => trits[first + l * n + p]! + 1) as [
        number,
        number,
        number,
        number,
      ];
      bytes.push(a * 64 + b * 16 + c * 4 + d);
    }
  }
  return Uint8Array.from([...bytes, ...new Uint8Array(Float32Array.of(scale).buffer), ...new Uint8Array(28)]);
}

describe('I2_S', () => {
  const trits = randomTrits(ROWS * COLS, 31);

  test('in both orders', () => {
    expect(decodeTernary(i2s(trits, 32, 0.7), request('I2_S'))).toEqual({ trits, scale: Math.fround(0.7) });
    expect(decodeTernary(i2s(trits, 16, 2), request('I2_S', 'arm'))).toEqual({ trits, scale: 2 });
  });

  test('as it is written', () => {
    expect([...encodeTrits('I2_S', trits, 0), ...i2sTail(0.7)]).toEqual([...i2s(trits, 32, 0.7)]);
  });

  test('with a code of 3 or without a scale is refused', () => {
    const bytes = i2s(trits, 32, 1);
    expect(refusal(() => decodeTernary(bytes.with(7, 0b00_11_00_00), request('I2_S')))).toMatch(
      /^invalid: tensor t: byte 7 holds the code 3/,
    );
    for (const scale of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(refusal(() => decodeTernary(i2s(trits, 32, scale), request('I2_S')))).toMatch(
        /^invalid: .*scale/,
      );
    }
  });
});

test.each<[TernaryGgufType]>([['TQ1_0'], ['TQ2_0'], ['Q4_0'], ['Q8_0']])(
  'trits go through %s exactly',
  (type) => {
    const trits = randomTrits(ROWS * COLS, 32);
    trits.fill(0, 0, 256);
    expect(decodeTernary(encodeTrits(type, trits, F16_HALF), request(type))).toEqual({ trits, scale: 0.5 });
  },
);

test('floats and q8_0 by its own rule are ternary, too, when they are', () => {
  const trits = randomTrits(ROWS * COLS, 33);
  const values = Float32Array.from(trits, (trit) => trit * 0.375);
  const bits = narrowFloats(values, 'bf16');
  expect(decodeTernary(new Uint8Array(values.buffer), request('F32'))).toEqual({ trits, scale: 0.375 });
  expect(decodeTernary(new Uint8Array(bits.buffer), request('BF16'))).toEqual({ trits, scale: 0.375 });
  // llama.cpp makes the largest of a block 127.
  const q8 = encodeTrits('Q8_0', trits, F16_HALF);
  for (let i = 0; i < q8.length; i++) if (i % 34 >= 2) q8[i] = (((q8[i]! << 24) >> 24) * 127) & 255;
  expect(decodeTernary(q8, request('Q8_0'))).toEqual({ trits, scale: 63.5 });
  values[5] = 0.4;
  expect(refusal(() => decodeTernary(new Uint8Array(values.buffer), request('F32')))).toMatch(
    /^unsupported: tensor t is not ternary with one scale/,
  );
  const mixed = encodeTrits('TQ2_0', trits, F16_HALF);
  mixed[65] = 0x40;
  expect(refusal(() => decodeTernary(mixed, request('TQ2_0')))).toMatch(
    /^unsupported: .*not ternary with one scale/,
  );
  expect(refusal(() => decodeTernary(new Uint8Array((ROWS * COLS * 84) / 256), request('Q2_K')))).toMatch(
    /minima/,
  );
  expect(refusal(() => decodeTernary(new Uint8Array(ROWS * COLS * 4), request('F32')))).toMatch(
    /^invalid: .*zeros/,
  );
});

test('packs trits as Hugging Face does: four quarters of the rows in a byte', () => {
  const trits = randomTrits(ROWS * COLS, 34);
  const packed = packTrits(trits);
  for (let row = 0; row < ROWS; row++) {
    for (let k = 0; k < COLS; k++) {
      const byte = packed[(row % (ROWS / 4)) * COLS + k]!;
      expect(((byte >> (2 * Math.floor(row / (ROWS / 4)))) & 3) - 1).toBe(trits[row * COLS + k]);
    }
  }
});

describe('the order of I2_S', () => {
  /** Columns of larger gain are filled more often, as in trained models. */
  function evidence(n: 32 | 16, seed: number, related: boolean): OrderEvidence {
    const uniform = randomUniform(seed);
    const gains = Float32Array.from({ length: COLS }, () => 0.5 + uniform());
    const trits = Int8Array.from({ length: 64 * COLS }, (_, i) => {
      const share = related ? 0.4 + 0.3 * gains[i % COLS]! : 0.6;
      return uniform() > share ? 0 : uniform() < 0.5 ? -1 : 1;
    });
    return { bytes: i2s(trits, n, 1).subarray(0, -32), cols: COLS, gains };
  }

  test('is told by trained weights', () => {
    expect(guessOrder([evidence(32, 1, true), evidence(32, 2, true)])).toBe('x86');
    expect(guessOrder([evidence(16, 3, true), evidence(16, 4, true)])).toBe('arm');
  });

  test('is not told by random ones', () => {
    for (let seed = 10; seed < 30; seed++) {
      expect(guessOrder([evidence(32, seed, false), evidence(16, seed + 50, false)])).toBeUndefined();
    }
    expect(guessOrder([])).toBeUndefined();
    const flat = { ...evidence(32, 5, true), gains: new Float32Array(COLS).fill(1) };
    expect(guessOrder([flat])).toBeUndefined();
  });
});
