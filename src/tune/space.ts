/** What the tuner may choose for a kernel, and how a choice looks to a cost model. */
import { randomWord } from '../common/random.ts';
import { type PlainRecord, sameSchedule } from '../kernels/kernel.ts';

/** All schedules of a kernel for one shape and machine; the default comes first. */
export type Space = readonly PlainRecord[];

/**
 * A schedule as numbers: of every field that varies in the space, a number by its logarithm (what matters in
 * tiles and distances is the ratio), a boolean as 0 or 1, a word by one 0 or 1 per possible value.
 */
export function featuresOf(space: Space): (schedule: PlainRecord) => number[] {
  const keys = [...new Set(space.flatMap((schedule) => Object.keys(schedule)))].sort();
  const columns = keys.flatMap((key): ((schedule: PlainRecord) => number)[] => {
    const values = [...new Set(space.map((schedule) => schedule[key]))];
    if (values.length < 2) return [];
    if (values.every((value) => typeof value === 'number')) {
      return [(schedule) => Math.log2(1 + Number(schedule[key] ?? 0))];
    }
    return values.map((value) => (schedule) => (schedule[key] === value ? 1 : 0));
  });
  return (schedule) => columns.map((column) => column(schedule));
}

/** Fields in which two schedules differ. */
function distance(a: PlainRecord, b: PlainRecord): number {
  return Object.keys(a).filter((key) => a[key] !== b[key]).length;
}

/** Indices of the schedules that differ from `from` in the fewest fields, of those that `wanted` lets through. */
export function neighbours(
  space: Space,
  from: number,
  wanted: (index: number) => boolean,
): readonly number[] {
  const open = [...space.keys()].filter((i) => i !== from && wanted(i));
  const far = open.map((i) => distance(space[from]!, space[i]!));
  const nearest = Math.min(...far);
  return open.filter((_, i) => far[i] === nearest);
}

/** The index of a schedule in a space; -1 where it is not one of it. */
export function indexIn(space: Space, schedule: PlainRecord): number {
  return space.findIndex((other) => sameSchedule(other, schedule));
}

/** An order of `count` indices, the same for the same seed. */
export function shuffled(count: number, seed: number): readonly number[] {
  return [...Array(count).keys()].sort((a, b) => randomWord(seed, a) - randomWord(seed, b) || a - b);
}
