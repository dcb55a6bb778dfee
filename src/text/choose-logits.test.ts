import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { randomUniform } from '../common/random.ts';
import { chooseLogits } from './choose-logits.ts';
import { createSampler } from './sampler.ts';
import type { ResolvedSampling } from './sampling-options.ts';

const GREEDY: ResolvedSampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 1 };
const NONE = () => [];

/** Bounds of these logits, each off by up to `width` on either side. */
function boundsOf(logits: Float32Array, width: number, seed: number) {
  const random = randomUniform(seed);
  const off = (sign: number) => logits.map((v) => v + sign * width * random());
  // Rounding must not bring a bound to the wrong side.
  const low = off(-1).map((v, i) => Math.min(v, logits[i]!));
  const high = off(1).map((v, i) => Math.max(v, logits[i]!));
  return { low, high };
}

describe('sampling from chosen logits', () => {
  it('draws the very tokens that all logits give', () => {
    const options = fc.record({
      temperature: fc.constantFrom(0, 0.3, 1, 2),
      topK: fc.constantFrom(0, 1, 3, 12, 200),
      topP: fc.constantFrom(1, 0.7),
      minP: fc.constantFrom(0, 0.02, 0.5),
      repetitionPenalty: fc.constantFrom(1, 1.3, 0.8),
      seed: fc.nat(1000),
    });
    let chosen = 0;
    fc.assert(
      fc.property(
        options,
        fc.nat(),
        fc.constantFrom(0.001, 0.3, 3),
        fc.boolean(),
        (sampling, seed, width, ties) => {
          const random = randomUniform(seed);
          const [all, some] = [createSampler(sampling), createSampler(sampling)];
          for (let step = 0; step < 6; step++) {
            const logits = Float32Array.from({ length: 120 }, () => {
              const value = (random() + random() - 1) * 8;
              return ties ? Math.round(value) : value;
            });
            const { low, high } = boundsOf(logits, width, seed + step);
            // Tokens that may be taken before this one is drawn.
            const ids = some.select([step, 7])?.(low, high, 0);
            if (ids !== undefined) chosen++;
            const given =
              ids === undefined ? logits : { ids, values: Float32Array.from(ids, (id) => logits[id]!) };
            expect(some.sample(given)).toBe(all.sample(logits));
          }
        },
      ),
      { seed: 5, numRuns: 300 },
    );
    expect(chosen).toBeGreaterThan(300);
  });

  it('chooses few when bounds are tight, and keeps ties', () => {
    const logits = Float32Array.of(1, 5, 2, 5, 4.9, -3, 0, 0, 0, 0, 0, 0);
    const { low, high } = boundsOf(logits, 0, 1);
    expect([...chooseLogits(GREEDY, NONE)!(low, high, 0)!]).toEqual([1, 3]);
    expect([...chooseLogits(GREEDY, () => [6])!(low, high, 0)!]).toEqual([1, 3, 6]);
    const topK = { ...GREEDY, temperature: 1, topK: 3 };
    expect([...chooseLogits(topK, NONE)!(low, high, 0)!]).toEqual([1, 3, 4]);
    const minP = { ...GREEDY, temperature: 0.5, minP: 0.5 };
    expect([...chooseLogits(minP, NONE)!(low, high, 0)!]).toEqual([1, 3, 4]);
  });

  it('wants all logits where all matter, where too many are open, and where bounds say nothing', () => {
    const sampled = { ...GREEDY, temperature: 1 };
    expect(chooseLogits(sampled, NONE)).toBeUndefined();
    expect(chooseLogits({ ...sampled, topP: 0.9, minP: 0.1 }, NONE)).toBeUndefined();
    const choose = chooseLogits(GREEDY, NONE)!;
    const even = new Float32Array(40).fill(1);
    expect(choose(even, even, 0)).toBeUndefined();
    const nothing = new Float32Array(40).fill(Number.NaN);
    expect(choose(nothing, nothing, 0)).toBeUndefined();
    const infinite = new Float32Array(40).fill(Number.POSITIVE_INFINITY);
    expect(
      choose(
        infinite.map((v) => -v),
        infinite,
        0,
      ),
    ).toBeUndefined();
    expect(chooseLogits({ ...sampled, topK: 40 }, NONE)!(even, even, 0)).toBeUndefined();
  });

  it('keeps a token whose bounds are no numbers', () => {
    const low = Float32Array.from({ length: 40 }, (_, i) => i);
    const high = low.slice();
    low[3] = high[3] = Number.NaN;
    expect([...chooseLogits(GREEDY, NONE)!(low, high, 0)!]).toEqual([3, 39]);
  });
});
