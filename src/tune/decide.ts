/** Which family and encoding a product of weights gets, from the best that was found for each. */
import type { TunedSchedule } from '../plan/types.ts';
import { lastChoices, subjectKey } from './records.ts';
import { type TuneTask, variantName } from './tasks.ts';

/** The best of one variant of a task, relative to the time of the task's default. */
export interface Best {
  readonly variant: number;
  /** Index in the task's choices. */
  readonly choice: number;
  /** Iterations that threads take at a time, where that is faster than singly. */
  readonly grain?: number;
  readonly ratio: number;
}

/** What tuning found for a task; the default's variant is always among `best`. */
export interface Found {
  readonly task: TuneTask;
  readonly best: readonly Best[];
}

/** Weights are encoded otherwise if one token or many gain this much by it, */
const WORTHWHILE = 0.97;
/** and neither loses more than this, which is noise. */
const HARMLESS = 1.02;

const nameOf = ({ task }: Found, { variant }: Best) => variantName(task.variants[variant]!.subject);

function scheduleOf({ task }: Found, { choice, grain }: Best): TunedSchedule {
  const { variant, schedule } = task.choices[choice]!;
  return {
    ...task.variants[variant]!.subject,
    schedule: grain === undefined ? schedule : { ...schedule, grain },
  };
}

/** The variant all kernels of a product are better off with; undefined for the one they have. */
function betterVariant(kernels: readonly Found[]): string | undefined {
  let chosen: { name: string; mean: number } | undefined;
  for (const name of new Set(kernels.flatMap((found) => found.best.map((best) => nameOf(found, best))))) {
    const gains = kernels.map((found) => {
      const own = found.best.find((best) => nameOf(found, best) === name);
      const usual = found.best.find(({ variant }) => variant === 0)!;
      return own === undefined ? Infinity : own.ratio / usual.ratio;
    });
    const mean = gains.reduce((product, gain) => product * gain, 1) ** (1 / gains.length);
    if (Math.max(...gains) > HARMLESS || Math.min(...gains) > WORTHWHILE) continue;
    if (chosen === undefined || mean < chosen.mean) chosen = { name, mean };
  }
  return chosen?.name;
}

/**
 * The schedules to take instead of defaults. Kernels that read the same weights, for one token and for many, agree on
 * a family and an encoding: another than the default one only if it was measured for all of them, `tasks` says which
 * these are.
 */
export function decide(tasks: readonly TuneTask[], found: readonly Found[]): readonly TunedSchedule[] {
  const groups = new Map<string, Found[]>();
  for (const one of found) {
    const key = one.task.product ?? one.task.name;
    groups.set(key, [...(groups.get(key) ?? []), one]);
  }
  return [...groups].flatMap(([key, kernels]) => {
    const wanted = tasks.filter((task) => (task.product ?? task.name) === key).length;
    const name = kernels.length < wanted ? undefined : betterVariant(kernels);
    return kernels.flatMap((one) => {
      const best = one.best.find((b) => (name === undefined ? b.variant === 0 : nameOf(one, b) === name))!;
      return best.choice === 0 && best.grain === undefined ? [] : [scheduleOf(one, best)];
    });
  });
}

/**
 * What a model runs with once new choices are adopted on top of earlier ones: of kernels that were measured again, only
 * what that found counts.
 */
export function mergeChoices(
  earlier: readonly TunedSchedule[],
  found: readonly Found[],
  choices: readonly TunedSchedule[],
): readonly TunedSchedule[] {
  const measured = new Set(
    found.flatMap(({ task }) => task.variants.map(({ subject }) => subjectKey(subject))),
  );
  return lastChoices([...earlier.filter((choice) => !measured.has(subjectKey(choice))), ...choices]);
}
