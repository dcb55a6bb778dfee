import { describe, expect, it } from 'vitest';
import { FunctionBuilder } from '../loops/builder.ts';
import type { Expr } from '../loops/ir.ts';
import { exp, silu } from './math.ts';
import { randomFloats, runCopies } from './testing.ts';

function apply(f: (b: FunctionBuilder, x: Expr) => Expr, values: readonly number[]): Float32Array {
  const b = new FunctionBuilder('f');
  const x = b.buffer('x', 'f32', 'read');
  const y = b.buffer('y', 'f32', 'write');
  b.thread('i', b.scalar('n'), (i) => b.store(y, i, f(b, b.load(x, i))));
  const input = Float32Array.from(values);
  const [, result] = runCopies(b.build(), [input, new Float32Array(input.length)], [input.length]);
  return result as Float32Array;
}

/** Distance of an f32 from the true value in units of its last place. */
function ulps(found: number, expected: number): number {
  const unit = 2 ** (Math.max(-126, Math.floor(Math.log2(Math.abs(expected)))) - 23);
  return Math.abs(found - expected) / unit;
}

describe('exp', () => {
  it('is within 1 ulp where it is normal', () => {
    const inputs = [...randomFloats(1, 4000).map((x) => x * 87), ...randomFloats(2, 4000)];
    const worst = inputs.map((x) => Math.fround(x));
    apply(exp, worst).forEach((y, i) => {
      expect(ulps(y, Math.exp(worst[i]!)), `exp(${worst[i]})`).toBeLessThan(1);
    });
  });

  it('is exactly 1 at 0, 0 where the result would be subnormal, and finite everywhere', () => {
    const large = apply(exp, [88])[0]!;
    expect([
      ...apply(exp, [0, -0, -87.34, -1000, Number.NEGATIVE_INFINITY, 89, Number.POSITIVE_INFINITY]),
    ]).toEqual([1, 1, 0, 0, 0, large, large]);
    expect(large).toBeGreaterThan(1.6e38);
    expect(apply(exp, [Number.NaN])[0]).toBeGreaterThan(0);
  });
});

describe('silu', () => {
  it('is within 4 ulp of x / (1 + e^-x)', () => {
    const inputs = [...randomFloats(3, 2000)].map((x) => Math.fround(x * 80));
    apply(silu, inputs).forEach((y, i) => {
      const x = inputs[i]!;
      expect(ulps(y, x / (1 + Math.exp(-x))), `silu(${x})`).toBeLessThan(4);
    });
  });

  it('goes to 0 and to x at the ends', () => {
    const [low, high, zero] = apply(silu, [-1000, 1000, 0]);
    expect(Math.abs(low!)).toBeLessThan(1e-34);
    expect([high, zero]).toEqual([1000, 0]);
  });
});
