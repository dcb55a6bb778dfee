import { describe, expect, it } from 'vitest';
import { randomUniform } from '../common/random.ts';
import { startSearch } from './search.ts';
import { featuresOf, indexIn, neighbours, type Space, shuffled } from './space.ts';

/** 288 schedules; the default is a poor one. */
const space: Space = ['a', 'b', 'c'].flatMap((how) =>
  [1, 2, 4, 8, 16, 32].flatMap((rows) =>
    [0, 512, 1024, 4096].flatMap((ahead) =>
      [1, 2].flatMap((unroll) => [true, false].map((shift) => ({ how, rows, ahead, unroll, shift }))),
    ),
  ),
);

/** A smooth landscape with a best point that depends on `seed`, and a little noise. */
function landscape(seed: number): (index: number) => number {
  const random = randomUniform(seed);
  const best = space[Math.floor(random() * space.length)]!;
  const cost = (index: number) => {
    const s = space[index]! as Record<string, number | string | boolean>;
    const far = (key: string) => Math.abs(Math.log2(1 + Number(s[key])) - Math.log2(1 + Number(best[key])));
    return 1 + 0.3 * far('rows') + 0.04 * far('ahead') + (s.how === best.how ? 0 : 0.5) + 0.1 * far('unroll');
  };
  return (index) => (cost(index) / cost(0)) * (1 + 0.01 * (random() - 0.5));
}

function runSearch(cost: (index: number) => number, seed: number, trials: number): number {
  const search = startSearch(space, seed);
  for (let i = 0; i < trials; i++) {
    const index = search.next();
    if (index === undefined) break;
    search.report(index, cost(index));
  }
  return search.best().ratio;
}

describe('the search', () => {
  it('finds better schedules than as many random ones do', () => {
    const trials = 30;
    let [searched, random] = [0, 0];
    for (let seed = 1; seed <= 6; seed++) {
      const cost = landscape(seed);
      const least = Math.min(...space.map((_, i) => cost(i)));
      searched += runSearch(cost, seed, trials) / least;
      const picked = shuffled(space.length, seed + 100).slice(0, trials);
      random += Math.min(1, ...picked.map(cost)) / least;
    }
    expect(searched / 6).toBeLessThan(1.1);
    expect(searched).toBeLessThan(random);
  });

  it('never proposes a schedule twice, and ends', () => {
    const search = startSearch(space, 3);
    const seen = new Set([0]);
    for (;;) {
      const index = search.next();
      if (index === undefined) break;
      expect(seen.has(index)).toBe(false);
      seen.add(index);
      search.report(index, 1.2);
    }
    expect(seen.size).toBeLessThan(space.length);
    expect(search.best()).toEqual({ index: 0, ratio: 1 });
  });

  it('goes on when schedules fail, and never chooses one that did', () => {
    const search = startSearch(space, 4);
    const failed = new Set<number>();
    for (let i = 0; i < 40; i++) {
      const index = search.next();
      if (index === undefined) break;
      const fails = space[index]!.how !== 'a';
      if (fails) failed.add(index);
      search.report(index, fails ? undefined : 0.9 - index / 1e4);
    }
    expect(failed.size).toBeGreaterThan(0);
    expect(failed.has(search.best().index)).toBe(false);
    expect(search.best().ratio).toBeLessThan(0.95);
  });

  it('tries all of a small space', () => {
    const small = space.slice(0, 5);
    const search = startSearch(small, 1);
    const tried: number[] = [];
    for (let index = search.next(); index !== undefined; index = search.next()) {
      tried.push(index);
      search.report(index, 1 + index / 10);
    }
    expect(tried.sort()).toEqual([1, 2, 3, 4]);
  });
});

describe('a space', () => {
  it('has numbers only for the fields that vary', () => {
    const features = featuresOf([
      { a: 1, b: 'x', c: true, d: 7 },
      { a: 3, b: 'y', c: false, d: 7 },
    ]);
    expect(features({ a: 3, b: 'y', c: true, d: 7 })).toEqual([2, 0, 1, 1, 0]);
  });

  it('knows neighbours and members', () => {
    const near = neighbours(space, 0, () => true);
    expect(near.length).toBeGreaterThan(0);
    for (const i of near) {
      const differing = Object.keys(space[0]!).filter((key) => space[i]![key] !== space[0]![key]);
      expect(differing.length).toBe(1);
    }
    expect(indexIn(space, { shift: true, unroll: 1, ahead: 0, rows: 1, how: 'a' })).toBe(0);
    expect(indexIn(space, { how: 'z' })).toBe(-1);
  });
});
