import { readFileSync } from 'node:fs';
import type { CompileOptions } from '../../api/compile.ts';
import type { load } from '../../api/load.ts';
import { LutraError } from '../../common/errors.ts';
import { randomUniform } from '../../common/random.ts';
import type { Model, Session } from '../../runtime/types.ts';
import { createSampler } from '../../text/sampler.ts';
import { resolveSampling } from '../../text/sampling-options.ts';
import { pick } from '../arguments.ts';

/** One measurement, done in a process of its own: plain data, so that it can be sent there. */
export interface BenchRequest extends Pick<CompileOptions, 'head' | 'cache'> {
  readonly source: string;
  readonly target?: string;
  readonly threads?: number;
  readonly context?: number;
  readonly hugePages?: boolean;
  /** Sequences at once; rates are of all of them together. */
  readonly batch: number;
  /** Tokens of the prompt and tokens generated after it; 0 leaves that test out. */
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly repetitions: number;
}

export interface BenchMeasurement {
  readonly model: string;
  readonly target: string;
  readonly threads: number;
  /** Of a model that is already compiled. */
  readonly loadSeconds: number;
  /** Tokens per second of each repetition. */
  readonly prefill: readonly number[];
  readonly decode: readonly number[];
  readonly peakMemoryBytes: number;
}

type Load = (source: string, options?: Parameters<typeof load>[1]) => Promise<Model>;

const WARM_UP_TOKENS = 8;

/** Loads the model and measures it; `onProgress` counts repetitions. */
export async function measure(
  load: Load,
  request: BenchRequest,
  onProgress: (done: number, total: number) => void = () => undefined,
): Promise<BenchMeasurement> {
  const { batch, promptTokens, newTokens, repetitions } = request;
  const start = performance.now();
  await using model = await load(
    request.source,
    pick(request, ['target', 'threads', 'context', 'head', 'cache', 'hugePages']),
  );
  const loadSeconds = secondsSince(start);
  const needed = promptTokens + Math.max(newTokens, 1);
  if (needed > model.context) {
    throw new LutraError('usage', `${needed} tokens are asked for; the context holds ${model.context}`, {
      hint: 'Ask for fewer with -p and -n, or give a larger --context.',
    });
  }
  // The model disposes of its sessions.
  const sessions = Array.from({ length: batch }, () => model.createSession());
  // What is said does not matter, only that tokens differ as those of a text do.
  const uniform = randomUniform(1);
  const prompts = sessions.map(() =>
    Int32Array.from({ length: Math.max(promptTokens, 1) }, () => Math.floor(uniform() * model.vocab)),
  );
  const warmUp = prompts.map((prompt) => prompt.subarray(0, WARM_UP_TOKENS));
  await runOnce(sessions, warmUp, Math.min(newTokens, WARM_UP_TOKENS));
  const prefill: number[] = [];
  const decode: number[] = [];
  for (let done = 0; done < repetitions; done++) {
    onProgress(done, repetitions);
    const seconds = await runOnce(sessions, prompts, newTokens);
    if (promptTokens > 0) prefill.push((batch * promptTokens) / seconds.prefill);
    if (newTokens > 0) decode.push((batch * newTokens) / seconds.decode);
  }
  const { name, target, threads } = model;
  return { model: name, target, threads, loadSeconds, prefill, decode, peakMemoryBytes: peakMemory() };
}

/** Prompts from an empty context, then greedy tokens one by one, sampling included, in all sessions at once. */
async function runOnce(
  sessions: readonly Session[],
  prompts: readonly Int32Array[],
  newTokens: number,
): Promise<{ readonly prefill: number; readonly decode: number }> {
  const sampler = createSampler(resolveSampling({ temperature: 0 }, {}));
  const start = performance.now();
  const first = await Promise.all(
    sessions.map((session, i) => {
      session.rewind(0);
      return session.forward(prompts[i]!, 'last');
    }),
  );
  const prefill = secondsSince(start);
  const middle = performance.now();
  await Promise.all(
    sessions.map(async (session, i) => {
      let logits = first[i]!;
      for (let done = 0; done < newTokens; done++) {
        logits = await session.forward(Int32Array.of(sampler.sample(logits)), 'last');
      }
    }),
  );
  return { prefill, decode: secondsSince(middle) };
}

function secondsSince(start: number): number {
  return (performance.now() - start) / 1000;
}

/**
 * The most memory this process ever had, mapped files included. On Linux from /proc: what resourceUsage
 * says there includes the process that started this one.
 */
function peakMemory(): number {
  if (process.platform === 'linux') {
    const match = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    if (match !== null) return Number(match[1]) * 1024;
  }
  return process.resourceUsage().maxRSS * 1024;
}
