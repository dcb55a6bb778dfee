/**
 * The search for the fastest schedule of one kernel: evolutionary, led by a learned cost model. After a few
 * schedules spread over the space, each next one is the most promising of the neighbours of the best so far and
 * of some at random, by a random forest fitted to everything measured (as in Chen et al., "Learning to optimize
 * tensor programs", 2018, which uses boosted trees); now and then it is one at random, in case the model is wrong.
 */
import { RandomForestRegression } from 'ml-random-forest';
import { randomUniform } from '../common/random.ts';
import { featuresOf, neighbours, type Space, shuffled } from './space.ts';

/** Schedules measured before the model is asked, the default among them. */
const FIRST = 6;
/** Of the best schedules so far, how many have their neighbours looked at. */
const PARENTS = 4;
const RANDOM_SHARE = 0.15;
/** Schedules in a row without a better one, after which the search ends; at least this many, */
const PATIENCE = 16;
/** and this share of the space. */
const PATIENCE_SHARE = 0.15;
/** How much slower than the slowest a schedule that failed counts. */
const FAILED = 1.5;
/** What counts as better: less is noise. */
const GAIN = 0.995;

export interface Search {
  /** Index of the schedule to measure next; undefined when no more are worth it. */
  next(): number | undefined;
  /** Its time relative to the default's; undefined when it failed. */
  report(index: number, ratio: number | undefined): void;
  /** The best so far: the default with ratio 1 until there is a better one. */
  best(): { readonly index: number; readonly ratio: number };
}

/**
 * Searches a space whose schedule 0 is the default, beginning with the schedules `starts`. `seed` fixes every choice.
 */
export function startSearch(space: Space, seed: number, starts: readonly number[] = []): Search {
  const random = randomUniform(seed);
  const features = featuresOf(space);
  const order = shuffled(space.length, seed).filter((i) => i !== 0);
  const first = [...starts, ...order];
  const ratios = new Map<number, number | undefined>([[0, 1]]);
  let best = { index: 0, ratio: 1 };
  let stale = 0;
  const patience = Math.max(PATIENCE, Math.round(space.length * PATIENCE_SHARE));

  const isOpen = (index: number) => !ratios.has(index);
  const pickRandom = () => {
    const open = order.filter(isOpen);
    return open[Math.floor(random() * open.length)];
  };

  function predictor(): (indices: readonly number[]) => readonly number[] {
    const measured = [...ratios];
    const slowest = Math.max(...measured.map(([, ratio]) => ratio ?? 0));
    const forest = new RandomForestRegression({
      seed: Math.floor(random() * 2 ** 31),
      nEstimators: 24,
      // Trees see all fields, and differ by the samples drawn for them.
      maxFeatures: 1.0,
      replacement: false,
      useSampleBagging: true,
      noOOB: true,
    });
    forest.train(
      measured.map(([index]) => features(space[index]!)),
      measured.map(([, ratio]) => Math.log(ratio ?? slowest * FAILED)),
    );
    return (indices) => forest.predict(indices.map((index) => features(space[index]!)));
  }

  function promising(): number | undefined {
    const parents = [...ratios]
      .filter((entry): entry is [number, number] => entry[1] !== undefined)
      .sort((a, b) => a[1] - b[1])
      .slice(0, PARENTS);
    const pool = new Set(parents.flatMap(([index]) => neighbours(space, index, isOpen)));
    for (let i = 0; i < 2 * PARENTS; i++) {
      const other = pickRandom();
      if (other !== undefined) pool.add(other);
    }
    const indices = [...pool];
    const predicted = predictor()(indices);
    const least = Math.min(...predicted);
    return indices.find((_, i) => predicted[i] === least);
  }

  return {
    next() {
      if (ratios.size >= space.length || stale >= patience) return undefined;
      if (ratios.size < FIRST + starts.length) return first.find(isOpen);
      return random() < RANDOM_SHARE ? pickRandom() : promising();
    },
    report(index, ratio) {
      if (isOpen(index)) stale++;
      ratios.set(index, ratio);
      if (ratio === undefined || ratio >= best.ratio * GAIN) return;
      best = { index, ratio };
      stale = 0;
    },
    best: () => best,
  };
}
