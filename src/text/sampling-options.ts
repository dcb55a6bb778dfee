import { LutraError } from '../common/errors.ts';
import type { SamplingOptions } from '../runtime/types.ts';

/** Sampling options with every default filled in. */
export interface ResolvedSampling {
  /** 0 is greedy; the other fields but `repetitionPenalty` have no effect then. */
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly seed: number;
}

interface Rule {
  /** The key of generation_config.json. */
  readonly key: string;
  readonly neutral: number;
  readonly range: string;
  readonly accepts: (value: number) => boolean;
}

const RULES: Readonly<Record<Exclude<keyof SamplingOptions, 'seed'>, Rule>> = {
  temperature: {
    key: 'temperature',
    neutral: 1,
    range: 'a finite number >= 0',
    accepts: (t) => t >= 0 && t < Number.POSITIVE_INFINITY,
  },
  topK: {
    key: 'top_k',
    neutral: 0,
    range: 'an integer >= 0',
    accepts: (k) => Number.isSafeInteger(k) && k >= 0,
  },
  topP: { key: 'top_p', neutral: 1, range: 'above 0 and at most 1', accepts: (p) => p > 0 && p <= 1 },
  minP: { key: 'min_p', neutral: 0, range: 'at least 0 and below 1', accepts: (p) => p >= 0 && p < 1 },
  repetitionPenalty: {
    key: 'repetition_penalty',
    neutral: 1,
    range: 'a finite number above 0',
    accepts: (r) => r > 0 && r < Number.POSITIVE_INFINITY,
  },
};

/** Whether a model takes the likeliest token where no temperature is asked for. */
export function isGreedy(generationConfig: Readonly<Record<string, unknown>>): boolean {
  const { do_sample: doSample, temperature } = generationConfig;
  return (
    doSample === false ||
    (typeof doSample !== 'boolean' && typeof temperature !== 'number') ||
    temperature === 0
  );
}

/**
 * What was asked for, then what generation_config.json says, then neutral values.
 *
 * The temperature, unless given, is 0 (greedy) when the model's configuration says `do_sample: false` or
 * names neither `do_sample` nor a temperature; otherwise the configured one, or 1. The seed, unless given,
 * is drawn at random. Throws `usage` for an option out of range, `invalid` for a configured value that is
 * needed and out of range.
 */
export function resolveSampling(
  options: SamplingOptions,
  generationConfig: Readonly<Record<string, unknown>>,
): ResolvedSampling {
  const pick = (name: keyof typeof RULES): number => {
    const rule = RULES[name];
    const asked = options[name];
    if (asked !== undefined) {
      if (!rule.accepts(asked)) throw outOfRange(name, rule.range, asked);
      return asked;
    }
    const configured = generationConfig[rule.key];
    if (configured === undefined || configured === null) return rule.neutral;
    if (typeof configured !== 'number' || !rule.accepts(configured)) {
      throw new LutraError(
        'invalid',
        `generation_config.json: ${rule.key} must be ${rule.range}, and is ${JSON.stringify(configured)}`,
        { hint: `Correct the file, or set ${name} yourself.` },
      );
    }
    return configured;
  };
  const { seed } = options;
  if (seed !== undefined && !(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)) {
    throw outOfRange('seed', 'an integer from 0 to 4294967295', seed);
  }
  return {
    temperature: options.temperature === undefined && isGreedy(generationConfig) ? 0 : pick('temperature'),
    topK: pick('topK'),
    topP: pick('topP'),
    minP: pick('minP'),
    repetitionPenalty: pick('repetitionPenalty'),
    seed: seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
  };
}

function outOfRange(name: string, range: string, value: number): LutraError {
  return new LutraError('usage', `${name} must be ${range}, and is ${value}`);
}
