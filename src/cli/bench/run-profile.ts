import { writeFile } from 'node:fs/promises';
import { isArtifact, openArtifact } from '../../artifact/open.ts';
import { LutraError } from '../../common/errors.ts';
import { randomUniform } from '../../common/random.ts';
import { compile } from '../../index.ts';
import { stepTraffic } from '../../plan/traffic.ts';
import { startArtifact } from '../../runtime/load.ts';
import type { LoadOptions } from '../../runtime/types.ts';
import { createSampler } from '../../text/sampler.ts';
import { resolveSampling } from '../../text/sampling-options.ts';
import { pick } from '../arguments.ts';
import { type PhaseProfile, profilePhase, type TimedStep, traceOf } from './profile.ts';

export interface ProfileRequest {
  readonly source: string;
  readonly target?: string;
  readonly threads?: number;
  readonly context?: number;
  readonly hugePages?: boolean;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Where to write the trace. */
  readonly trace: string;
}

export interface ProfileReport {
  readonly model: string;
  readonly target: string;
  readonly threads: number;
  readonly trace: string;
  readonly phases: readonly PhaseProfile[];
}

/** Tokens of a step of a long prompt, as sessions feed it. */
const PREFILL_STEP = 256;

/**
 * Runs a prompt and greedy tokens after it, once to warm up and once with times noted, and writes the trace of
 * the second run. These are the steps that sessions make, by the same code.
 */
export async function runProfile(
  request: ProfileRequest,
  hooks: Pick<LoadOptions, 'onProgress' | 'onWarning'> = {},
): Promise<ProfileReport> {
  const { source, promptTokens, newTokens, trace } = request;
  const path = (await isArtifact(source))
    ? source
    : await compile(source, { ...pick(request, ['target', 'context']), ...hooks });
  const artifact = await openArtifact(path);
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
    const cache = executable.createCache();
    const uniform = randomUniform(1);
    const prompt = Int32Array.from({ length: promptTokens }, () => Math.floor(uniform() * vocab));
    const sampler = createSampler(resolveSampling({ temperature: 0 }, {}));
    const timed: TimedStep[] = [];
    const run = async (phase: TimedStep['phase'], tokens: Int32Array, position: number, note: boolean) => {
      const groups = note ? stepTraffic(plan, [{ tokens: tokens.length, position, logits: 'last' }]) : [];
      const times = new Float64Array(note ? threads * (1 + 2 * groups.length) : 0).fill(Number.NaN);
      const start = performance.now();
      const [logits] = await executable.step(
        [{ tokens, position, cache, logits: 'last' }],
        ...(note ? [times] : []),
      );
      const end = performance.now();
      if (note) timed.push({ phase, tokens: tokens.length, position, start, end, times, threads, groups });
      return logits!;
    };
    for (const note of [false, true]) {
      let token = 0;
      for (let at = 0; at < prompt.length; at += PREFILL_STEP) {
        token = sampler.sample(await run('prefill', prompt.slice(at, at + PREFILL_STEP), at, note));
      }
      for (let i = 0; i < newTokens; i++) {
        token = sampler.sample(await run('decode', Int32Array.of(token), promptTokens + i, note));
      }
    }
    const facts = { model: manifest.name, target };
    await writeFile(trace, JSON.stringify(traceOf(facts, timed)));
    const phases = (['prefill', 'decode'] as const)
      .map((phase) => profilePhase(phase, timed))
      .filter(({ steps }) => steps > 0);
    return { ...facts, threads, trace, phases };
  } finally {
    await executable.close();
  }
}
