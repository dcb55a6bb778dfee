import { writeFile } from 'node:fs/promises';
import { artifactOf } from '../../api/artifact-of.ts';
import type { CompileOptions } from '../../api/compile.ts';
import { fileFailure } from '../../checkpoint/failure.ts';
import { LutraError } from '../../common/errors.ts';
import { randomUniform } from '../../common/random.ts';
import { stepTraffic, type TrafficSequence } from '../../plan/traffic.ts';
import { startArtifact } from '../../runtime/load.ts';
import { StepScheduler } from '../../runtime/scheduler.ts';
import { Sequence } from '../../runtime/sequence.ts';
import type { LoadOptions } from '../../runtime/types.ts';
import type { Executable } from '../../targets/executable.ts';
import { createSampler } from '../../text/sampler.ts';
import { resolveSampling } from '../../text/sampling-options.ts';
import { pick } from '../arguments.ts';
import { type PhaseProfile, profilePhase, type TimedStep, traceOf } from './profile.ts';

export interface ProfileRequest extends Pick<CompileOptions, 'head' | 'cache'> {
  readonly source: string;
  readonly target?: string;
  readonly threads?: number;
  readonly context?: number;
  readonly hugePages?: boolean;
  /** Sequences at once. */
  readonly batch: number;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Where to write the trace. */
  readonly trace: string;
}

export interface ProfileReport {
  readonly model: string;
  readonly target: string;
  readonly threads: number;
  /** Sequences at once, where that is more than one. */
  readonly batch?: number;
  readonly trace: string;
  readonly phases: readonly PhaseProfile[];
}

/**
 * Runs a prompt and greedy tokens after it in every sequence, once to warm up and once with times noted, and writes
 * the trace of the second run. These are the steps that sessions make, by the same code.
 */
export async function runProfile(
  request: ProfileRequest,
  hooks: Pick<LoadOptions, 'onProgress' | 'onWarning'> = {},
): Promise<ProfileReport> {
  const { source, batch, promptTokens, newTokens, trace } = request;
  const artifact = await artifactOf(source, {
    ...pick(request, ['target', 'context', 'head', 'cache']),
    ...hooks,
  });
  const { manifest, plan } = artifact;
  const { vocab } = manifest.needs;
  if (promptTokens + newTokens > manifest.context) {
    throw new LutraError(
      'usage',
      `${promptTokens + newTokens} tokens are asked for; the context holds ${manifest.context}`,
      { hint: 'Ask for fewer with -p and -n, or give a larger --context.' },
    );
  }
  const executable = await startArtifact(artifact, {
    ...pick(request, ['target', 'threads', 'hugePages']),
    ...pick(hooks, ['onWarning']),
  });
  try {
    const { threads, target } = executable;
    const timed: TimedStep[] = [];
    let phase: TimedStep['phase'] | undefined;
    // Looked up while times are noted: working them out takes as long as a step, and leaves garbage whose collection
    // would take the processors away from the threads that are timed.
    const traffic = new Map<string, TimedStep['groups']>();
    const groupsOf = (parts: readonly TrafficSequence[]) => {
      const key = JSON.stringify(parts);
      const groups = traffic.get(key) ?? stepTraffic(plan, parts);
      traffic.set(key, groups);
      return groups;
    };
    const noting: Executable = {
      ...pick(executable, ['target', 'threads']),
      createCache: () => executable.createCache(),
      stepSelected: (requests) => executable.stepSelected(requests),
      callKernel: (call) => executable.callKernel(call),
      close: () => executable.close(),
      async step(requests) {
        const parts = requests.map(({ tokens, position, logits }) => ({
          tokens: tokens.length,
          position,
          logits,
        }));
        const groups = groupsOf(parts);
        if (phase === undefined) return executable.step(requests);
        const times = new Float64Array(threads * (1 + 2 * groups.length)).fill(Number.NaN);
        const start = performance.now();
        const logits = await executable.step(requests, times);
        const end = performance.now();
        const tokens = parts.reduce((sum, part) => sum + part.tokens, 0);
        const { position } = parts[0]!;
        timed.push({ phase, tokens, sequences: parts.length, position, start, end, times, threads, groups });
        return logits;
      },
    };
    const stepper = new StepScheduler(noting);
    const sequences = Array.from({ length: batch }, () => new Sequence(stepper, manifest.context, vocab));
    const uniform = randomUniform(1);
    const prompts = sequences.map(() =>
      Int32Array.from({ length: promptTokens }, () => Math.floor(uniform() * vocab)),
    );
    const sampler = createSampler(resolveSampling({ temperature: 0 }, {}));
    for (const note of [false, true]) {
      for (const sequence of sequences) sequence.rewind(0);
      const next = sequences.map(() => 0);
      if (note) phase = 'prefill';
      const prefill = sequences.map(async (sequence, i) => {
        if (promptTokens > 0) next[i] = sampler.sample(await sequence.forward(prompts[i]!, 'last'));
      });
      await Promise.all(prefill);
      if (note) phase = 'decode';
      const decode = sequences.map(async (sequence, i) => {
        for (let done = 0; done < newTokens; done++) {
          next[i] = sampler.sample(await sequence.forward([next[i]!], 'last'));
        }
      });
      await Promise.all(decode);
    }
    const facts = { model: manifest.name, target };
    await writeFile(trace, JSON.stringify(traceOf(facts, timed))).catch((error: unknown) => {
      throw fileFailure(error, 'writing', trace);
    });
    const phases = (['prefill', 'decode'] as const)
      .map((phase) => profilePhase(phase, timed))
      .filter(({ steps }) => steps > 0);
    return { ...facts, threads, ...(batch === 1 ? {} : { batch }), trace, phases };
  } finally {
    await executable.close();
  }
}
