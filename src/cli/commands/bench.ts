import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import type { CompileOptions } from '../../api/compile.ts';
import { modelSource } from '../../checkpoint/resolve.ts';
import { LutraError } from '../../common/errors.ts';
import { batchSizes, pick, positiveInteger, threadCounts, wholeNumber } from '../arguments.ts';
import type { ChildHooks } from '../bench/fork.ts';
import type { BenchMeasurement } from '../bench/measure.ts';
import { renderProfile } from '../bench/render-profile.ts';
import type { Deps } from '../deps.ts';
import { interruptible } from '../io.ts';
import { addContextOption, addHugePagesOption, addTargetOption, MODEL_HELP } from '../model-options.ts';
import { createProgressBar } from '../progress.ts';
import { byteSize, table } from '../render.ts';
import { addHeadOptions } from '../weight-options.ts';

interface BenchFlags extends Pick<CompileOptions, 'head' | 'cache'> {
  readonly prompt: number;
  readonly new: number;
  readonly threads?: readonly number[];
  readonly batch: readonly number[];
  readonly repetitions?: number;
  readonly target?: string;
  readonly context?: number;
  readonly hugePages?: true;
  readonly profile?: string | true;
  readonly json?: true;
}

const REPETITIONS = 5;

/** Where the trace goes when `--profile` names no file. */
const TRACE_FILE = 'lutra-trace.json';

interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

interface BenchResult {
  readonly threads: number;
  /** Sequences at once, where that is more than one. */
  readonly batch?: number;
  readonly test: 'prefill' | 'decode';
  readonly tokens: number;
  readonly tokensPerSecond: Spread;
}

/** What `--json` prints. */
interface BenchReport {
  readonly model: string;
  readonly target: string;
  readonly results: readonly BenchResult[];
  readonly peakMemoryBytes: number;
  readonly loadSeconds: number;
  /** GB/s by number of threads. */
  readonly memoryBandwidth: Readonly<Record<string, number>>;
}

/** `lutra bench MODEL`: speed, memory and load time, each thread count in a fresh process. */
export function addBenchCommand(program: Command, deps: Deps): void {
  const command = program
    .command('bench')
    .description('measure speed, memory and load time')
    .argument('[model]', MODEL_HELP, 'embedded');
  const option = <T>(flags: string, help: string, parse: (text: string) => T, value?: T) =>
    command.addOption(new Option(flags, help).default(value).argParser(parse));
  option('-p, --prompt <n>', 'tokens of the prompt; 0 leaves the test out', wholeNumber('--prompt'), 128);
  option('-n, --new <n>', 'tokens generated one by one; 0 leaves the test out', wholeNumber('--new'), 64);
  option('-t, --threads <list>', 'thread counts, as in 1,2', threadCounts('--threads'));
  option('-b, --batch <list>', 'sequences at once, as in 1,4,16', batchSizes('--batch'), [1]);
  option('-r, --repetitions <n>', `runs of each test (${REPETITIONS})`, positiveInteger('--repetitions'));
  addHeadOptions(addHugePagesOption(addContextOption(addTargetOption(command))))
    .option(
      '--profile [file]',
      `time, bytes and bandwidth of each kernel, and a trace for ui.perfetto.dev (default: ${TRACE_FILE})`,
    )
    .option('--json', 'print one JSON object')
    .action((model: string, flags: BenchFlags) => bench(deps, model, flags));
}

async function bench(deps: Deps, model: string, flags: BenchFlags): Promise<void> {
  if (flags.prompt + flags.new === 0)
    throw new LutraError('usage', 'nothing to measure: -p and -n are both 0');
  if (flags.profile !== undefined) return profile(deps, model, flags, flags.profile);
  const bar = createProgressBar(deps.io);
  const report = await interruptible(deps.io, (signal) =>
    measureAll(deps, modelSource(model), flags, { signal, onProgress: bar.update, onWarning: bar.warn }),
  ).finally(() => bar.clear());
  deps.io.out(flags.json ? `${JSON.stringify(report)}\n` : render(report));
}

/** `--profile`: one run of the real steps, taken apart by kernel. */
async function profile(deps: Deps, model: string, flags: BenchFlags, file: string | true): Promise<void> {
  if ((flags.threads?.length ?? 1) > 1 || flags.batch.length > 1) {
    throw new LutraError('usage', '--profile looks at one number of threads and of sequences', {
      hint: 'Give a single number with -t, and with -b.',
    });
  }
  if (flags.repetitions !== undefined) {
    throw new LutraError('usage', '--profile takes one run apart: --repetitions means nothing for it');
  }
  const bar = createProgressBar(deps.io);
  const [threads] = flags.threads ?? [];
  const report = await interruptible(deps.io, (signal) =>
    deps.bench.profile(
      {
        source: modelSource(model),
        ...pick(flags, ['target', 'context', 'head', 'cache', 'hugePages']),
        ...(threads === undefined ? {} : { threads }),
        batch: flags.batch[0]!,
        promptTokens: flags.prompt,
        newTokens: flags.new,
        trace: resolve(file === true ? TRACE_FILE : file),
      },
      { signal, onProgress: bar.update, onWarning: bar.warn },
    ),
  ).finally(() => bar.clear());
  deps.io.out(flags.json ? `${JSON.stringify(report)}\n` : renderProfile(report));
}

async function measureAll(
  deps: Deps,
  source: string,
  flags: BenchFlags,
  hooks: ChildHooks,
): Promise<BenchReport> {
  const options = pick(flags, ['target', 'context', 'head', 'cache', 'hugePages']);
  await deps.bench.prepare({ source, options }, hooks);
  const measured: { readonly batch: number; readonly one: BenchMeasurement }[] = [];
  const memoryBandwidth: Record<string, number> = {};
  for (const threads of flags.threads ?? [undefined]) {
    for (const batch of flags.batch) {
      const request = {
        source,
        ...options,
        ...(threads === undefined ? {} : { threads }),
        batch,
        promptTokens: flags.prompt,
        newTokens: flags.new,
        repetitions: flags.repetitions ?? REPETITIONS,
      };
      measured.push({ batch, one: await deps.bench.measure(request, hooks) });
    }
    const { one } = measured.at(-1)!;
    const bytesPerSecond = await deps.bench.bandwidth(one.target, one.threads, hooks);
    memoryBandwidth[one.threads] = round(bytesPerSecond / 1e9, 1);
  }
  const first = measured[0]!.one;
  return {
    model: first.model,
    target: first.target,
    results: measured.flatMap(({ batch, one: { threads, prefill, decode } }) => {
      const where = { threads, ...(batch === 1 ? {} : { batch }) };
      return [
        ...result({ ...where, test: 'prefill', tokens: flags.prompt }, prefill),
        ...result({ ...where, test: 'decode', tokens: flags.new }, decode),
      ];
    }),
    peakMemoryBytes: Math.max(...measured.map(({ one }) => one.peakMemoryBytes)),
    loadSeconds: round(spread(measured.map(({ one }) => one.loadSeconds)).median, 3),
    memoryBandwidth,
  };
}

function result(test: Omit<BenchResult, 'tokensPerSecond'>, rates: readonly number[]): BenchResult[] {
  if (rates.length === 0) return [];
  const { median, min, max } = spread(rates);
  const tokensPerSecond = { median: round(median, 2), min: round(min, 2), max: round(max, 2) };
  return [{ ...test, tokensPerSecond }];
}

function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (index: number) => sorted[index]!;
  const middle = (sorted.length - 1) / 2;
  return {
    median: (at(Math.floor(middle)) + at(Math.ceil(middle))) / 2,
    min: at(0),
    max: at(sorted.length - 1),
  };
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

function render(report: BenchReport): string {
  const { model, target, results, peakMemoryBytes, loadSeconds, memoryBandwidth } = report;
  const rows = results.map(({ threads, batch = 1, test, tokens, tokensPerSecond: { median, min, max } }) => [
    threads,
    batch,
    test,
    tokens,
    median.toFixed(1),
    `${min.toFixed(1)} to ${max.toFixed(1)}`,
  ]);
  const bandwidth = Object.entries(memoryBandwidth).map(([threads, rate]) => `${rate} GB/s with ${threads}`);
  return [
    `${model} on ${target}\n`,
    table([['threads', 'batch', 'test', 'tokens', 'tokens/s', 'range'], ...rows]),
    `load ${loadSeconds.toFixed(2)} s, peak memory ${byteSize(peakMemoryBytes)}\n`,
    `memory reads: ${bandwidth.join(', ')} threads\n`,
  ].join('');
}
