/**
 * The search replayed on a space that was measured whole (`test/data/tune-space.jsonl`): what it finds in a number of
 * trials, beside as many at random. Each schedule in turn is taken for the default that both begin with.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { PlainRecord } from '../src/kernels/kernel.ts';
import { startSearch } from '../src/tune/search.ts';
import { shuffled } from '../src/tune/space.ts';

const lines = readFileSync('test/data/tune-space.jsonl', 'utf8').trim().split('\n');
const measured = lines.map((line) => JSON.parse(line) as PlainRecord & { readonly ratio: number });
const fastest = Math.min(...measured.map(({ ratio }) => ratio));

/** The space and its times from the point of view of one schedule, which comes first. */
function spaceFrom(first: number) {
  const order = [first, ...measured.keys()].filter((index, i) => i === 0 || index !== first);
  const schedules = order.map((index) => {
    const { ratio: _, ...schedule } = measured[index]!;
    return schedule;
  });
  const times = order.map((index) => measured[index]!.ratio / measured[first]!.ratio);
  const families = schedules.map(({ family }) => family);
  const starts = [...new Set(families)].map((family) => families.indexOf(family)).filter((i) => i > 0);
  return { schedules, times, starts };
}

/** The best of some trials over the best there is, by the search and at random, a mean over all beginnings. */
function compare(trials: number): { readonly searched: number; readonly random: number } {
  let [searched, random] = [0, 0];
  for (const first of measured.keys()) {
    const { schedules, times, starts } = spaceFrom(first);
    const unit = fastest / measured[first]!.ratio;
    const search = startSearch(schedules, 1 + first, starts);
    for (let i = 0; i < trials; i++) {
      const index = search.next();
      if (index === undefined) break;
      search.report(index, times[index]);
    }
    searched += times[search.best().index]! / unit;
    const tried = shuffled(schedules.length, 100 + first).filter((i) => i !== 0);
    random += Math.min(1, ...tried.slice(0, trials).map((i) => times[i]!)) / unit;
  }
  return { searched: searched / measured.length, random: random / measured.length };
}

describe('the search, replayed', () => {
  it.each([8, 12])('finds faster schedules in %i trials than random choice', (trials) => {
    const { searched, random } = compare(trials);

    expect(searched).toBeGreaterThanOrEqual(1);
    expect(searched).toBeLessThan(random);
  });
});
