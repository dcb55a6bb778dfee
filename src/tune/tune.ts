/** Finds families, encodings and schedules for the kernels of a plan, within a budget, and records all it tries. */
import { LutraError } from '../common/errors.ts';
import { buildScheduled, grains } from '../kernels/grain.ts';
import { sameSchedule } from '../kernels/kernel.ts';
import type { Best, Found } from './decide.ts';
import type { Contender, MeasureJob, MeasureResult } from './job.ts';
import { type RecordFile, subjectKey, type Trial } from './records.ts';
import { startSearch } from './search.ts';
import { type TuneTask, variantName } from './tasks.ts';

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
  /** Best time so far, relative to the default's, */
  readonly best: number;
  /** and by which family and encoding, where there are several. */
  readonly variant?: string;
}

export interface TuneContext {
  /** See `Trial.host`. */
  readonly host: string;
  /** That the model will run with: native code is tried on them with its work split in several ways. */
  readonly threads: number;
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
/** Schedules of a variant that are measured again, longer, before one of them is chosen: luck looks like speed. */
const FINALISTS = 3;
/** Of a kernel's time, how much the search may take. */
const SEARCH_SHARE = 0.8;
/** A schedule has to be this much faster than the default. */
const WORTHWHILE = 0.98;
/** Of other variants, those are measured again that are not this much slower than the best. */
const NEAR = 1.05;

function trialOf(host: string, job: MeasureJob, result: MeasureResult): Trial {
  const { before: _, ...candidate } = job.candidate;
  const { machine, threads } = job;
  const on = { host, tokens: job.tokens, ...(threads > 1 && { threads }) };
  const base = { kind: 'trial', ...candidate, machine, ...on } as const;
  if (result.outcome !== 'ok') return { ...base, ...result };
  const { outcome, seconds, againstSeconds, ratio, ratios } = result;
  return {
    ...base,
    ...{ outcome, seconds, defaultSeconds: againstSeconds, ratio },
    ...(ratios.length > 1 && { ratios }),
  };
}

/** What earlier runs on this host found out about a task, one thread at work. */
function known(task: TuneTask, { host, records }: TuneContext): ReadonlyMap<number, number | undefined> {
  const variants = new Map(task.variants.map(({ subject }, i) => [subjectKey(subject), i]));
  const found = new Map<number, number | undefined>();
  for (const record of records.records) {
    if (record.kind !== 'trial' || record.host !== host || record.threads !== undefined) continue;
    if (String(record.tokens) !== String(task.tokens)) continue;
    const variant = variants.get(subjectKey(record));
    if (variant === undefined) continue;
    const index = task.choices.findIndex(
      (choice) => choice.variant === variant && sameSchedule(choice.schedule, record.schedule),
    );
    if (index > 0) found.set(index, record.outcome === 'ok' ? record.ratio : undefined);
  }
  return found;
}

function contenderOf({ choices, variants }: TuneTask, index: number, grain = 1): Contender {
  const { variant, schedule: own } = choices[index]!;
  const { subject, before } = variants[variant]!;
  const { op, family, shape } = subject;
  const schedule = grain === 1 ? own : { ...own, grain };
  return { op, family, shape, schedule, ...(before && { before }) };
}

/** Ways to split the work of a choice among the threads, beside the usual one; none where there is but one. */
function splitsOf(task: TuneTask, index: number, threads: number): readonly number[] {
  const { op, family, shape, schedule } = contenderOf(task, index);
  const { machine } = task.variants[0]!.subject;
  // The tuner's teams are of native threads, and a head has parts enough whatever their size.
  if (threads === 1 || !machine.startsWith('c:') || !op.startsWith('lowbit.')) return [];
  return grains(buildScheduled({ op, family, shape }, 'kernel', schedule), shape, threads);
}

async function tuneKernel(
  task: TuneTask,
  context: TuneContext,
  deadline: number,
  report: (trials: number, best: { readonly index: number; readonly ratio: number }) => void,
): Promise<Found> {
  const { limits, signal, now = () => performance.now() / 1000 } = context;
  // Every family and encoding gets its chance: its own default is tried first.
  const defaults = task.variants.map((_, v) => task.choices.findIndex(({ variant }) => variant === v));
  const search = startSearch(task.space, SEED, defaults.slice(1));
  const ratios = new Map<number, number>();
  let trials = 0;
  const learn = (index: number, ratio: number | undefined) => {
    search.report(index, ratio);
    if (ratio === undefined) ratios.delete(index);
    else ratios.set(index, ratio);
    trials++;
    report(trials, search.best());
  };
  /** With a grain, on all threads and against the same without it. */
  const measure = async (index: number, turns: number, grain = 1) => {
    const { variants, choices, tokens, position } = task;
    const { subject, test } = variants[choices[index]!.variant]!;
    const job: MeasureJob = {
      machine: subject.machine,
      candidate: contenderOf(task, index, grain),
      against: contenderOf(task, grain > 1 ? index : 0),
      test,
      // By the clock, one number of tokens has to do.
      tokens: grain > 1 ? tokens.slice(0, 1) : [...tokens],
      position,
      threads: grain > 1 ? context.threads : 1,
      turns,
      turnSeconds: TURN_SECONDS,
    };
    const result = await context.run(job, limits.secondsPerTrial, signal);
    await context.records.append(trialOf(context.host, job, result));
    return result.outcome === 'ok' ? result.ratio : undefined;
  };
  /** The best found for a variant, with the way of splitting its work that is fastest on all threads. */
  const split = async (own: Best): Promise<Best> => {
    let [least, chosen] = [WORTHWHILE, own];
    for (const grain of splitsOf(task, own.choice, context.threads)) {
      if (now() >= deadline) break;
      const first = await measure(own.choice, TURNS.first, grain);
      if (first === undefined || first >= least) continue;
      // By the clock, which others' work disturbs more than the processor's time.
      const ratio = await measure(own.choice, TURNS.confirming, grain);
      if (ratio === undefined || ratio >= least) continue;
      least = ratio;
      chosen = { ...own, grain, ratio: own.ratio * ratio };
    }
    return chosen;
  };

  for (const [index, ratio] of known(task, context)) learn(index, ratio);
  // Some time is left for measuring again what was best, and for splits.
  const enough = now() + SEARCH_SHARE * (deadline - now());
  while (trials < limits.trials && now() < enough) {
    const index = search.next();
    if (index === undefined) break;
    learn(index, await measure(index, TURNS.first));
  }
  const best: Best[] = [];
  for (const variant of task.variants.keys()) {
    const least = Math.min(...best.map(({ ratio }) => ratio));
    const limit = variant === 0 ? WORTHWHILE : least * NEAR;
    const finalists = [...ratios]
      .filter(([index, ratio]) => task.choices[index]!.variant === variant && ratio < limit)
      .sort((a, b) => a[1] - b[1])
      .slice(0, FINALISTS);
    let own: Best | undefined = variant === 0 ? { variant, choice: 0, ratio: 1 } : undefined;
    for (const [choice] of finalists) {
      const ratio = await measure(choice, TURNS.confirming);
      const bar = own === undefined ? Infinity : own.choice === 0 ? WORTHWHILE : own.ratio;
      if (ratio !== undefined && ratio < bar) own = { variant, choice, ratio };
    }
    if (own !== undefined) best.push(await split(own));
  }
  return { task, best };
}

/**
 * Searches every task in turn, each with an equal share of the time that is left. Cancelled, it ends early with
 * what it found (and everything measured is in the records); the default stays wherever nothing was faster.
 */
export async function tuneKernels(
  tasks: readonly TuneTask[],
  context: TuneContext,
): Promise<readonly Found[]> {
  const { limits, signal, now = () => performance.now() / 1000 } = context;
  const end = now() + limits.secondsInAll;
  const found: Found[] = [];
  for (const [index, task] of tasks.entries()) {
    const share = (end - now()) / (tasks.length - index);
    if (share <= 0 || signal?.aborted) break;
    const report = (trials: number, best: { readonly index: number; readonly ratio: number }) => {
      const { variant } = task.choices[best.index]!;
      context.onProgress?.({
        kernel: task.name,
        index,
        kernels: tasks.length,
        trials,
        space: task.space.length,
        best: best.ratio,
        ...(task.variants.length > 1 && { variant: variantName(task.variants[variant]!.subject) }),
      });
    };
    report(0, { index: 0, ratio: 1 });
    try {
      const deadline = now() + Math.min(share, limits.secondsPerKernel);
      found.push(await tuneKernel(task, context, deadline, report));
    } catch (error) {
      if (error instanceof LutraError && error.code === 'cancelled') break;
      throw error;
    }
  }
  return found;
}
