import { describe, expect, it } from 'vitest';
import { createRandom, fromState } from './random.ts';

describe('random', () => {
  it('is xoshiro128++ as published', () => {
    const random = fromState([1, 2, 3, 4]);
    const first = Array.from({ length: 10 }, () => random.uint32());
    expect(first).toEqual([
      641, 1573767, 3222811527, 3517856514, 836907274, 4247214768, 3867114732, 1355841295, 495546011,
      621204420,
    ]);
  });

  it('gives the same numbers for a seed and others for its neighbours', () => {
    const draw = (seed: number) => {
      const random = createRandom(seed);
      return Array.from({ length: 4 }, () => random.uniform());
    };
    expect(draw(7)).toEqual(draw(7));
    const seeds = [0, 1, 2, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER];
    const firsts = seeds.map((seed) => draw(seed)[0]);
    expect(new Set(firsts).size).toBe(seeds.length);
    for (const seed of seeds) for (const x of draw(seed)) expect(x >= 0 && x < 1).toBe(true);
  });

  it('is uniform: 20 bins, also over the first numbers of consecutive seeds', () => {
    const chiSquare = (next: () => number) => {
      const counts = new Array<number>(20).fill(0);
      for (let i = 0; i < 20_000; i++) counts[Math.floor(next() * 20)]!++;
      return counts.reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0);
    };
    // 19 degrees of freedom: above 50 once in 7,000 tries; the seeds are fixed.
    const random = createRandom(1);
    expect(chiSquare(() => random.uniform())).toBeLessThan(50);
    let seed = 0;
    expect(chiSquare(() => createRandom(seed++).uniform())).toBeLessThan(50);
  });
});
