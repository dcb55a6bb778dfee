import { describe, expect, it } from 'vitest';
import { verdictOf } from './verdict.ts';

const plain = { prefill: 100, decode: 10 };
const turns = (...tuned: (readonly [prefill: number, decode: number])[]) =>
  tuned.map(([prefill, decode]) => ({ plain, tuned: { prefill, decode } }));
const adopted = (...tuned: (readonly [number, number])[]) => verdictOf(turns(...tuned)).adopted;

describe('the check of the whole model', () => {
  it('adopts what is faster in one phase, and not slower in the other', () => {
    expect(adopted([100, 12])).toBe(true);
    expect(adopted([120, 9.95])).toBe(true);
    expect(verdictOf(turns([110, 12]))).toMatchObject({
      decode: { default: 10, tuned: 12 },
      prefill: { default: 100, tuned: 110 },
    });
  });

  it('rejects what is slower, however much it gains elsewhere, and what changes nothing', () => {
    expect(adopted([300, 9.8])).toBe(false);
    expect(adopted([90, 30])).toBe(false);
    expect(adopted([100, 10])).toBe(false);
  });

  it('goes by the median of the turns: one that was lucky or disturbed does not decide', () => {
    expect(adopted([99, 9.9], [1000, 100], [98, 9.5])).toBe(false);
    expect(adopted([101, 10.2], [1, 0.1], [101, 10.3])).toBe(true);
  });
});
