import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { randomUniform } from '../common/random.ts';
import type { SamplingOptions } from '../runtime/types.ts';
import { createSampler, expNegative } from './sampler.ts';
import { resolveSampling } from './sampling-options.ts';

const NEUTRAL = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 11 };

/** The probabilities that the options stand for, by sorting everything. */
function exact(logits: readonly number[], options: SamplingOptions): number[] {
  const { temperature, topK, topP, minP } = { ...NEUTRAL, ...options };
  const ranked = logits
    .map((logit, id) => ({ id, weight: Math.exp(logit / temperature) }))
    .sort((a, b) => b.weight - a.weight || a.id - b.id);
  let kept = topK > 0 ? ranked.slice(0, topK) : ranked;
  const whole = kept.reduce((sum, { weight }) => sum + weight, 0);
  let sum = 0;
  kept = kept.filter(({ weight }) => {
    const needed = sum < topP * whole;
    sum += weight;
    return needed;
  });
  kept = kept.filter(({ weight }) => weight >= minP * kept[0]!.weight);
  const total = kept.reduce((all, { weight }) => all + weight, 0);
  const result = logits.map(() => 0);
  for (const { id, weight } of kept) result[id] = weight / total;
  return result;
}

function randomLogits(count: number, seed: number, spread: number): Float32Array {
  const random = randomUniform(seed);
  return Float32Array.from({ length: count }, () => (random() + random() - 1) * spread);
}

describe('createSampler', () => {
  const logits = Float32Array.from([1, 2.5, 0.5, 2.5, -3, 1.75, 0, 2]);

  it.each<[string, SamplingOptions]>([
    ['temperature alone', { temperature: 1.3 }],
    ['low temperature', { temperature: 0.6 }],
    ['top-k', { topK: 4 }],
    ['top-k that cuts a tie', { topK: 1, temperature: 5 }],
    ['top-p', { topP: 0.7 }],
    ['top-p of what top-k left', { topK: 5, topP: 0.8 }],
    ['min-p', { minP: 0.3 }],
    ['all of them', { temperature: 0.9, topK: 6, topP: 0.95, minP: 0.2 }],
    ['filters wider than the vocabulary', { topK: 100, topP: 1 }],
  ])('draws with the exact probabilities: %s', (_, options) => {
    const wanted = exact([...logits], options);
    const sampler = createSampler({ ...NEUTRAL, ...options });
    const draws = 20_000;
    const counts = new Array<number>(logits.length).fill(0);
    for (let i = 0; i < draws; i++) counts[sampler.sample(logits)]!++;
    let chiSquare = 0;
    for (const [id, probability] of wanted.entries()) {
      if (probability === 0) expect(counts[id]).toBe(0);
      else chiSquare += (counts[id]! - draws * probability) ** 2 / (draws * probability);
    }
    // At most 7 degrees of freedom: above 30 once in 10,000 tries; the seed is fixed.
    expect(chiSquare).toBeLessThan(30);
  });

  it('keeps exactly the tokens that sorting everything keeps, on vocabularies of any size', () => {
    fc.assert(
      fc.property(
        fc.nat(1_000_000),
        fc.integer({ min: 1, max: 3000 }),
        fc.constantFrom(0.01, 2, 20, 60),
        fc.constantFrom(0, 1, 7, 50, 5000),
        fc.constantFrom(1, 0.999, 0.9, 0.3, 1e-9),
        fc.constantFrom(0, 0.01, 0.5),
        (seed, count, spread, topK, topP, minP) => {
          const values = randomLogits(count, seed, spread);
          const wanted = exact([...values], { topK, topP, minP });
          const sampler = createSampler({ ...NEUTRAL, topK, topP, minP, seed });
          for (let i = 0; i < 20; i++) expect(wanted[sampler.sample(values)]).toBeGreaterThan(0);
        },
      ),
      { seed: 7, numRuns: 150 },
    );
  });

  it('is greedy at temperature 0, and takes the lowest id of a tie', () => {
    const greedy = createSampler({ ...NEUTRAL, temperature: 0 });
    expect(greedy.sample(logits)).toBe(1);
    expect(greedy.sample(Float32Array.from([Number.NEGATIVE_INFINITY, -5, -5]))).toBe(1);
    expect(createSampler({ ...NEUTRAL, temperature: 1e-320 }).sample(logits.subarray(2))).toBe(1);
  });

  it('repeats itself with a seed, and does not change the logits', () => {
    const before = logits.slice();
    const run = (seed: number) => {
      const sampler = createSampler({ ...NEUTRAL, repetitionPenalty: 1.2, seed });
      return Array.from({ length: 30 }, () => sampler.sample(logits));
    };
    expect(run(5)).toEqual(run(5));
    expect(run(5)).not.toEqual(run(6));
    expect(logits).toEqual(before);
  });

  it('penalizes what was observed or sampled, positive logits by division, negative by multiplication', () => {
    const options = { ...NEUTRAL, temperature: 0, repetitionPenalty: 2 };
    const positive = createSampler(options);
    const values = Float32Array.from([3, 2, 1.6]);
    expect([0, 1, 2, 3].map(() => positive.sample(values))).toEqual([0, 1, 2, 0]);
    const negative = createSampler(options);
    negative.observe([1, 999]);
    expect(negative.sample(Float32Array.from([-1.5, -1, -4]))).toBe(0);
  });

  it('refuses logits that are not numbers', () => {
    for (const temperature of [0, 1]) {
      for (const bad of [[1, Number.NaN], [Number.POSITIVE_INFINITY], [Number.NEGATIVE_INFINITY], []]) {
        const sampler = createSampler({ ...NEUTRAL, temperature });
        expect(() => sampler.sample(Float32Array.from(bad))).toThrow(LutraError);
      }
    }
  });
});

describe('expNegative', () => {
  it('is e^x to 1e-13, and 0 far below', () => {
    expect(expNegative(0)).toBe(1);
    expect(expNegative(Number.NEGATIVE_INFINITY)).toBe(0);
    const random = randomUniform(3);
    for (let i = 0; i < 20_000; i++) {
      const x = -random() * (i % 2 === 0 ? 3 : 700);
      expect(Math.abs(expNegative(x) / Math.exp(x) - 1)).toBeLessThan(1e-13);
    }
  });
});

describe('resolveSampling', () => {
  it('prefers the options, then generation_config.json, then neutral values', () => {
    const config = { do_sample: true, temperature: 0.6, top_p: 0.9, top_k: null };
    expect(resolveSampling({ seed: 4 }, config)).toEqual({
      ...NEUTRAL,
      temperature: 0.6,
      topP: 0.9,
      seed: 4,
    });
    expect(resolveSampling({ seed: 4, temperature: 0, topP: 1, topK: 3 }, config)).toEqual({
      ...NEUTRAL,
      temperature: 0,
      topK: 3,
      seed: 4,
    });
  });

  it('is greedy when the model does not say that it is sampled', () => {
    const temperature = (config: Record<string, unknown>) => resolveSampling({}, config).temperature;
    expect(temperature({})).toBe(0);
    expect(temperature({ top_p: 0.9 })).toBe(0);
    expect(temperature({ do_sample: false, temperature: 0.7 })).toBe(0);
    expect(temperature({ do_sample: true })).toBe(1);
    expect(temperature({ temperature: 0.7 })).toBe(0.7);
    expect(resolveSampling({ temperature: 0.5 }, { do_sample: false }).temperature).toBe(0.5);
  });

  it('draws a seed when none is given', () => {
    const seeds = Array.from({ length: 4 }, () => resolveSampling({}, {}).seed);
    expect(new Set(seeds).size).toBeGreaterThan(1);
  });

  it.each<[SamplingOptions, string]>([
    [{ temperature: -1 }, 'temperature must be a finite number >= 0, and is -1'],
    [{ temperature: Number.NaN }, 'temperature must be a finite number >= 0, and is NaN'],
    [{ temperature: Number.POSITIVE_INFINITY }, 'temperature'],
    [{ topK: 1.5 }, 'topK must be an integer >= 0, and is 1.5'],
    [{ topP: 0 }, 'topP must be above 0 and at most 1, and is 0'],
    [{ topP: 1.1 }, 'topP'],
    [{ minP: 1 }, 'minP must be at least 0 and below 1, and is 1'],
    [{ repetitionPenalty: 0 }, 'repetitionPenalty must be a finite number above 0, and is 0'],
    [{ seed: -1 }, 'seed must be an integer from 0 to 4294967295, and is -1'],
    [{ seed: 0.5 }, 'seed'],
    [{ seed: 2 ** 32 }, 'seed'],
  ])('refuses %j', (options, text) => {
    try {
      resolveSampling(options, {});
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ code: 'usage', message: expect.stringContaining(text) });
    }
  });

  it('names the file when a configured value is out of range, unless an option replaces it', () => {
    const config = { do_sample: true, top_p: 'most' };
    expect(() => resolveSampling({}, config)).toThrow(
      'generation_config.json: top_p must be above 0 and at most 1, and is "most"',
    );
    expect(resolveSampling({ topP: 0.5 }, config).topP).toBe(0.5);
  });
});
