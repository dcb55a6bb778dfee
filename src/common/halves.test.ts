import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  bf16ToF32,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  type HalfFormat,
  narrowFloats,
  widenHalves,
} from './halves.ts';

const FORMATS = [
  { format: 'f16' as HalfFormat, widen: f16ToF32, narrow: f32ToF16, infinity: 0x7c00 },
  { format: 'bf16' as HalfFormat, widen: bf16ToF32, narrow: f32ToBf16, infinity: 0x7f80 },
];

/** Every f32 bit pattern is as likely as any other; the interesting exponents come often enough. */
const anyFloat = fc.integer({ min: 0, max: 0xffffffff }).map((bits) => {
  return new Float32Array(new Uint32Array([bits]).buffer)[0]!;
});
const f16Range = fc.double({ min: -70000, max: 70000, noNaN: true }).map(Math.fround);
const tiny = fc.double({ min: -(2 ** -13), max: 2 ** -13, noNaN: true }).map(Math.fround);

describe.each(FORMATS)('$format', ({ format, widen, narrow, infinity }) => {
  it('widens and narrows every bit pattern back to itself', () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      if (Number.isNaN(widen(bits))) expect((bits & 0x7fff) > infinity).toBe(true);
      else expect(narrow(widen(bits))).toBe(bits);
    }
  });

  it('has values that grow with the bit pattern', () => {
    for (let bits = 1; bits <= infinity; bits++) expect(widen(bits)).toBeGreaterThan(widen(bits - 1));
  });

  it('rounds to the nearest value, ties to even', () => {
    fc.assert(
      fc.property(fc.oneof(anyFloat, f16Range, tiny), (value) => {
        fc.pre(Number.isFinite(value));
        const bits = narrow(value);
        const magnitude = bits & 0x7fff;
        expect(Object.is(value, -0) || value < 0).toBe(bits >= 0x8000);
        // The infinity stands for the power of two after the largest value: that is where rounding carries to.
        const at = (m: number) => (m === infinity ? 2 * widen(m - 1) - widen(m - 2) : widen(m));
        const x = Math.abs(value);
        const error = Math.abs(at(magnitude) - x);
        if (magnitude === infinity && x > at(infinity)) return;
        for (const neighbour of [magnitude - 1, magnitude + 1]) {
          if (neighbour < 0 || neighbour > infinity) continue;
          const other = Math.abs(at(neighbour) - x);
          expect(error).toBeLessThanOrEqual(other);
          if (error === other) expect(magnitude % 2).toBe(0);
        }
      }),
      { seed: 1, numRuns: 3000 },
    );
  });

  it('keeps NaN a NaN and infinity an infinity', () => {
    expect(widen(narrow(Number.NaN))).toBeNaN();
    expect(narrow(Infinity)).toBe(infinity);
    expect(narrow(-Infinity)).toBe(infinity | 0x8000);
  });

  it('converts arrays as it converts single values', () => {
    const bits = Uint16Array.from({ length: 0x10000 }, (_, i) => i);
    const values = widenHalves(bits, format);
    for (const b of bits) expect(Object.is(values[b], widen(b))).toBe(true);
    const finite = values.filter((v) => !Number.isNaN(v));
    expect(widenHalves(narrowFloats(finite, format), format)).toEqual(finite);
  });
});

describe('known values', () => {
  it.each([
    [1, 0x3c00],
    [-2, 0xc000],
    [65504, 0x7bff],
    [65519.99, 0x7bff],
    [65520, 0x7c00],
    [2 ** -14, 0x0400],
    [2 ** -24, 0x0001],
    [2 ** -25, 0x0000],
    [1.5 * 2 ** -24, 0x0002],
    [2.5 * 2 ** -24, 0x0002],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
  ])('f16(%d) = %i', (value, bits) => {
    expect(f32ToF16(value)).toBe(bits);
  });

  it.each([
    [1, 0x3f80],
    [1 + 2 ** -8, 0x3f80],
    [1 + 3 * 2 ** -8, 0x3f82],
    [3.4e38, 0x7f80],
    [3.38e38, 0x7f7e],
  ])('bf16(%d) = %i', (value, bits) => {
    expect(f32ToBf16(value)).toBe(bits);
  });
});
