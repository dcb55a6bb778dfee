/** Finds schedules for the kernels of a plan, within a budget, and records everything it tries. */
import { LutraError } from '../common/errors.ts';
import type { TunedSchedule } from '../plan/types.ts';
import type { MeasureJob, MeasureResult } from './job.ts';
import { type RecordFile, subjectKey, type Trial } from './records.ts';
import { startSearch } from './search.ts';
import { indexIn } from './space.ts';
import type { TuneTask } from './tasks.ts';

export interface TuneLimits {
  /** Schedules tried per kernel at most. */
  readonly trials: number;
  readonly secondsPerKernel: number;
  readonly secondsInAll: number;
  /** A measurement that takes longer is ended and counts as failed. */
  readonly secondsPerTrial: number;
}

export interface TuneProgress {
  readonly kernel: string;
  /** Which kernel of how many. */
  readonly index: number;
  readonly kernels: number;
  readonly trials: number;
  readonly space: number;
  /** Best time so far, relative to the default's. */
  readonly best: number;
}

export interface TuneContext {
  /** See `Trial.host`. */
  readonly host: string;
  readonly records: RecordFile;
  readonly limits: TuneLimits;
  /** Runs a job elsewhere: in a process of its own, on another machine. */
  readonly run: (job: MeasureJob, timeoutSeconds: number, signal?: AbortSignal) => Promise<MeasureResult>;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: TuneProgress) => void;
  /** Seconds of a clock; default: that of the process. */
  readonly now?: () => number;
}

const SEED = 1;
const TURNS = { first: 5, confirming: 11 };
const TURN_SECONDS = 0.02;
/** Schedules that are measured again, longer, before one of them is chosen: luck looks like speed. */
const FINALISTS = 3;
/** A choice has to be this much faster than the default. */
const WORTHWHILE = 0.98;

function trialOf(task: TuneTask, host: string, index: number, result: MeasureResult): Trial {
  const base = { kind: 'trial', ...task.subject, host, schedule: { ...task.space[index]! } } as const;
  if (result.outcome !== 'ok') return { ...base, shape: { ...task.subject.shape }, ...result };
  const { outcome, seconds, againstSeconds, ratio } = result;
  return {
    ...base,
    shape: { ...task.subject.shape },
    outcome,
    seconds,
    defaultSeconds: againstSeconds,
    ratio,
  };
}

/** What earlier runs on this host found out about a task. */
function known(task: TuneTask, { host, records }: TuneContext): ReadonlyMap<number, number | undefined> {
  const key = subjectKey(task.subject);
  const found = new Map<number, number | undefined>();
  for (const record of records.records) {
    if (record.kind !== 'trial' || record.host !== host || subjectKey(record) !== key) continue;
    const index = indexIn(task.space, record.schedule);
    if (index > 0) found.set(index, record.outcome === 'ok' ? record.ratio : undefined);
  }
  return found;
}

async function tuneKernel(
  task: TuneTask,
  context: TuneContext,
  deadline: number,
  report: (trials: number, best: number) => void,
): Promise<TunedSchedule | undefined> {
  const { limits, signal, now = () => performance.now() / 1000 } = context;
  const search = startSearch(task.space, SEED);
  const ratios = new Map<number, number>();
  let trials = 0;
  const learn = (index: number, ratio: number | undefined) => {
    search.report(index, ratio);
    if (ratio === undefined) ratios.delete(index);
    else ratios.set(index, ratio);
    trials++;
    report(trials, search.best().ratio);
  };
  const measure = async (index: number, turns: number) => {
    const { subject, space, n, position, test } = task;
    const job: MeasureJob = {
      ...subject,
      shape: { ...subject.shape },
      schedule: { ...space[index]! },
      against: { ...space[0]! },
      test,
      n,
      position,
      turns,
      turnSeconds: TURN_SECONDS,
    };
    const result = await context.run(job, limits.secondsPerTrial, signal);
    await context.records.append(trialOf(task, context.host, index, result));
    return result.outcome === 'ok' ? result.ratio : undefined;
  };

  for (const [index, ratio] of known(task, context)) learn(index, ratio);
  while (trials < limits.trials && now() < deadline) {
    const index = search.next();
    if (index === undefined) break;
    learn(index, await measure(index, TURNS.first));
  }
  const finalists = [...ratios]
    .filter(([, ratio]) => ratio < WORTHWHILE)
    .sort((a, b) => a[1] - b[1])
    .slice(0, FINALISTS);
  let best: { index: number; ratio: number } | undefined;
  for (const [index] of finalists) {
    const ratio = await measure(index, TURNS.confirming);
    if (ratio !== undefined && ratio < (best?.ratio ?? WORTHWHILE)) best = { index, ratio };
  }
  return (
    best && { ...task.subject, shape: { ...task.subject.shape }, schedule: { ...task.space[best.index]! } }
  );
}

/**
 * Searches every task in turn, each with an equal share of the time that is left. Cancelled, it ends early with
 * what it found (and everything measured is in the records); the default stays wherever nothing was faster.
 */
export async function tuneKernels(
  tasks: readonly TuneTask[],
  context: TuneContext,
): Promise<readonly TunedSchedule[]> {
  const { limits, signal, now = () => performance.now() / 1000 } = context;
  const end = now() + limits.secondsInAll;
  const choices: TunedSchedule[] = [];
  for (const [index, task] of tasks.entries()) {
    const share = (end - now()) / (tasks.length - index);
    if (share <= 0 || signal?.aborted) break;
    const report = (trials: number, best: number) =>
      context.onProgress?.({
        kernel: task.name,
        index,
        kernels: tasks.length,
        trials,
        space: task.space.length,
        best,
      });
    report(0, 1);
    try {
      const deadline = now() + Math.min(share, limits.secondsPerKernel);
      const choice = await tuneKernel(task, context, deadline, report);
      if (choice !== undefined) choices.push(choice);
    } catch (error) {
      if (error instanceof LutraError && error.code === 'cancelled') break;
      throw error;
    }
  }
  return choices;
}
