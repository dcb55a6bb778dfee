import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { planCheckpoint } from '../artifact/build.ts';
import { cacheFolder } from '../artifact/cache.ts';
import { openCheckpoint } from '../checkpoint/open.ts';
import { LutraError } from '../common/errors.ts';
import { alternatives } from '../kernels/alternatives.ts';
import { KERNELS } from '../kernels/registry.ts';
import { modelName } from '../models/decoder.ts';
import type { WeightOptions } from '../models/quantization.ts';
import { kernelKey } from '../plan/lower.ts';
import type { Plan, TunedSchedule } from '../plan/types.ts';
import { detectHost } from '../runtime/load.ts';
import { checkTarget, defaultThreads, type Host, nativeMachines } from '../runtime/targets.ts';
import type { Model, Progress } from '../runtime/types.ts';
import { hasCompiler } from '../targets/c/compile.ts';
import { decide, mergeChoices } from '../tune/decide.ts';
import { recordsPath, tuneHost } from '../tune/host.ts';
import { machineNamed } from '../tune/kernels.ts';
import { type Adoption, adoptedChoices, openRecords, type TuneRecord, wasAdopted } from '../tune/records.ts';
import { runJob } from '../tune/run-job.ts';
import { tuneTasks } from '../tune/tasks.ts';
import { type TuneLimits, type TuneProgress, tuneKernels } from '../tune/tune.ts';
import { type Speeds, verdictOf } from '../tune/verdict.ts';
import {
  type CompileOptions,
  cacheElement,
  chooseLookup,
  chooseTernary,
  compile,
  weightOptions,
} from './compile.ts';
import { fetchModel } from './fetch-model.ts';
import { refuseIdleRounding } from './ignored-options.ts';
import { load } from './load.ts';

export interface TuneOptions
  extends WeightOptions,
    Pick<CompileOptions, 'target' | 'threads' | 'context' | 'cache' | 'head'> {
  /** JSON lines, read and added to; default: a file in the cache, which `compile` looks into. */
  readonly records?: string;
  readonly limits?: Partial<TuneLimits>;
  /** Only kernels of these operators. */
  readonly ops?: readonly string[];
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
  readonly onTuning?: (progress: TuneProgress) => void;
  readonly onWarning?: (message: string) => void;
}

export interface TuneResult {
  /** `c:avx2`, ...: what was tuned for. */
  readonly machine: string;
  readonly records: string;
  /** Kernels that have more than one schedule. */
  readonly kernels: number;
  /** Measurements of this run, and how many of them failed: wrong results, crashes, too slow, not compiled. */
  readonly trials: number;
  readonly failed: number;
  /** Schedules that measured faster than their defaults. */
  readonly choices: readonly TunedSchedule[];
  /** How the whole model runs with them; undefined when there was nothing to compare, or no time. */
  readonly check?: Check;
}

/** How a whole model runs with the defaults and with what was chosen, and what it is compiled with from then on. */
type Check = Pick<Adoption, 'decode' | 'prefill' | 'adopted' | 'kept'>;

const LIMITS: TuneLimits = { trials: 200, secondsPerKernel: 300, secondsInAll: 600, secondsPerTrial: 30 };

/** The machine a target means here, the one that would run a model. */
async function chooseMachine(target: string, host: Host): Promise<string> {
  const native = nativeMachines(target, host.cpu);
  if (native[0] !== undefined && (target !== 'auto' || (await hasCompiler()))) return native[0];
  const wasm = host.wasm.find(({ name }) => !target.startsWith('wasm:') || name === target);
  if (wasm !== undefined) return wasm.name;
  throw new LutraError('environment', `this computer runs nothing of the target ${target}`);
}

const ROUNDS = 9;
const PREFILL_TOKENS = 128;
const DECODE_TOKENS = 12;
/** Seconds of a phase in a turn at least: small models take but milliseconds. */
const PHASE_SECONDS = 0.2;

/** Calls `run` as often as fits some time, at least once; seconds of a call. */
async function secondsOf(run: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  for (let count = 1; ; count++) {
    await run();
    const spent = (performance.now() - start) / 1000;
    if (spent >= PHASE_SECONDS) return spent / count;
  }
}

/** Tokens per second of a prompt, and of tokens one at a time after it. */
async function measureModel(model: Model): Promise<Speeds> {
  const session = model.createSession();
  const tokens = Math.max(1, Math.min(PREFILL_TOKENS, model.context - DECODE_TOKENS));
  const prompt = Int32Array.from({ length: tokens }, (_, i) => (i * 37) % model.vocab);
  const prefill = await secondsOf(async () => {
    session.rewind(0);
    await session.forward(prompt, 'last');
  });
  const decode = await secondsOf(async () => {
    session.rewind(prompt.length);
    for (let i = 0; i < DECODE_TOKENS; i++) {
      await session.forward(Int32Array.of((i * 53) % model.vocab), 'last');
    }
  });
  await session.dispose();
  return { prefill: prompt.length / prefill, decode: DECODE_TOKENS / decode };
}

/** Both models in turns. */
async function compareModels(
  [plain, tuned]: readonly [Model, Model],
  signal: AbortSignal | undefined,
): Promise<Check> {
  const turns: { plain: Speeds; tuned: Speeds }[] = [];
  for (const model of [plain, tuned]) await measureModel(model);
  for (let round = 0; round < ROUNDS; round++) {
    if (signal?.aborted) throw new LutraError('cancelled', 'tuning was cancelled');
    const first = await measureModel(round % 2 === 0 ? plain : tuned);
    const second = await measureModel(round % 2 === 0 ? tuned : plain);
    turns.push(round % 2 === 0 ? { plain: first, tuned: second } : { plain: second, tuned: first });
  }
  return verdictOf(turns);
}

/** Compiles the model with one set of schedules and with another, and compares the two. */
async function checkModel(
  folder: string,
  machine: string,
  sets: readonly [plain: readonly TunedSchedule[], tuned: readonly TunedSchedule[]],
  options: TuneOptions,
): Promise<Check> {
  const parent = join(cacheFolder(), 'tune');
  await mkdir(parent, { recursive: true });
  const scratch = await mkdtemp(join(parent, 'check-'));
  const models: Model[] = [];
  try {
    const { threads, context, cache, head, signal, onProgress, onWarning } = options;
    for (const tuned of sets) {
      const artifact = await compile(folder, {
        target: machine,
        output: join(scratch, `model-${models.length}`),
        tuned,
        ...weightOptions(options),
        ...given({ threads, context, cache, head, signal, onProgress, onWarning }),
      });
      models.push(await load(artifact, { target: machine, ...given({ threads, signal, onWarning }) }));
    }
    return await compareModels(models as [Model, Model], signal);
  } finally {
    for (const model of models) await model.dispose();
    await rm(scratch, { recursive: true, force: true });
  }
}

/** The choices adopted earlier that this model is compiled with: its own, or other models' for kernels like its. */
function adoptedFor(
  plan: Plan,
  records: readonly TuneRecord[],
  machine: string,
  facts: { readonly host: string; readonly model: string },
): readonly TunedSchedule[] {
  const adopted = adoptedChoices(records, [machine], facts);
  if (wasAdopted(records, machine, facts)) return adopted;
  const kernels = new Set(
    plan.kernels.flatMap((use) => [use, ...alternatives(use)].map((one) => kernelKey(one))),
  );
  return adopted.filter((choice) => kernels.has(kernelKey(choice)));
}

/**
 * Whether a model gains by all the choices it would be compiled with: against the defaults, and against what it is
 * compiled with now, `earlier`, which was checked on this model (`own`) or on others.
 */
async function checkChoices(
  folder: string,
  machine: string,
  { earlier, own }: { readonly earlier: readonly TunedSchedule[]; readonly own: boolean },
  all: readonly TunedSchedule[],
  options: TuneOptions,
): Promise<Check> {
  const check = await checkModel(folder, machine, [[], all], options);
  if (!check.adopted) return { ...check, kept: own ? 'earlier' : 'defaults' };
  const same =
    earlier.length === all.length &&
    earlier.every((own) => all.some((other) => isDeepStrictEqual(own, other)));
  if (earlier.length === 0 || same) return check;
  const { adopted } = await checkModel(folder, machine, [earlier, all], options);
  return adopted ? check : { ...check, adopted, kept: 'earlier' };
}

/** Without the fields that are undefined. */
function given<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never;
}

/**
 * Finds fast schedules for a checkpoint's kernels on this machine, and families and encodings for its weights,
 * records every trial, and adopts what was found, together with what was adopted before, if the whole model is faster
 * with all of it: from then on `compile` uses it. Cancelled, it ends with an error; what was measured until then stays
 * recorded, and the next run goes on from there. Throws what reading and compiling throw,
 * `usage` for operators that do not exist.
 */
export async function tune(source: string, options: TuneOptions = {}): Promise<TuneResult> {
  const { target = 'auto', ops, signal, onTuning } = options;
  checkTarget(target);
  refuseIdleRounding(options);
  const unknown = ops?.find((op) => !KERNELS.some((kernel) => kernel.op === op));
  if (unknown !== undefined) {
    throw new LutraError('usage', `no operator is called ${unknown}`, {
      hint: `Operators are ${[...new Set(KERNELS.map(({ op }) => op))].join(', ')}.`,
    });
  }
  const folder = await fetchModel(source, options);
  const computer = await detectHost();
  const machine = await chooseMachine(target, computer);
  const host = await tuneHost(computer.cpu, machine);
  const checkpoint = await openCheckpoint(folder);
  const name = modelName(folder);
  let plan: Plan;
  let tasks: ReturnType<typeof tuneTasks>;
  try {
    const { context, cache, head = 'stored' } = options;
    const cacheElem = cacheElement(cache);
    // What compile takes without records.
    ({ plan } = planCheckpoint(checkpoint, {
      cacheElem,
      head,
      weights: weightOptions(options),
      ternary: (facts) => chooseTernary([machine], computer, facts),
      lookup: chooseLookup('auto', machineNamed(machine)),
      ...given({ context }),
    }));
    tasks = tuneTasks(plan, machineNamed(machine), ops);
  } finally {
    await checkpoint.close();
  }
  const records = await openRecords(options.records ?? recordsPath());
  const before = records.records.length;
  let stopped = false;
  const found = await tuneKernels(tasks, {
    host,
    threads: options.threads ?? defaultThreads(computer.cpu),
    records,
    limits: { ...LIMITS, ...options.limits },
    run: (job, timeoutSeconds, stop) =>
      runJob(job, { timeoutSeconds, ...given({ signal: stop }) }).catch((error) => {
        // Ctrl-C in a terminal may end the process that measures before it comes here.
        stopped = error instanceof LutraError && error.code === 'cancelled';
        throw error;
      }),
    ...given({ signal, onProgress: onTuning }),
  });
  const choices = decide(tasks, found);
  if (signal?.aborted || stopped) {
    throw new LutraError('cancelled', `tuning was stopped; what was measured is in ${records.path}`, {
      hint: 'The same command goes on from there.',
    });
  }
  const outcomes = records.records
    .slice(before)
    .flatMap((record) => (record.kind === 'trial' ? [record.outcome] : []));
  const failed = outcomes.filter((outcome) => outcome !== 'ok').length;
  const result = {
    ...{ machine, records: records.path, kernels: tasks.length },
    ...{ trials: outcomes.length, failed, choices },
  };
  const facts = { host, model: name };
  const own = wasAdopted(records.records, machine, facts);
  const earlier = adoptedFor(plan, records.records, machine, facts);
  // What other models had adopted has to prove itself on this one, too.
  const all = choices.length > 0 ? mergeChoices(earlier, found, choices) : own ? [] : earlier;
  if (tasks.length === 0 || all.length === 0) return result;
  const check = await checkChoices(folder, machine, { earlier, own }, all, options);
  await records.append({
    kind: 'adoption',
    host,
    model: name,
    machine,
    choices: all.map((choice) => ({
      ...choice,
      shape: { ...choice.shape },
      schedule: { ...choice.schedule },
    })),
    ...check,
  });
  return { ...result, check };
}
