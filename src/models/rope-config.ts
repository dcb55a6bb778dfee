/** What config.json says of rotary positions: base, and how angles are scaled for longer contexts. */
import { z } from 'zod';
import { LutraError } from '../common/errors.ts';
import type { RopeScaling } from '../graph/ir.ts';
import { parseConfig, refuse } from './parse-config.ts';

/** How much a position turns: see the source `rope-table`. */
export interface Rope {
  readonly theta: number;
  readonly scaling?: RopeScaling;
  readonly divisors?: readonly number[];
  readonly magnitude?: number;
}

type Json = Readonly<Record<string, unknown>>;

/** The keys of config.json that concern positions. */
interface RopeKeys {
  readonly rope_theta?: number | null | undefined;
  readonly rope_scaling?: Json | null | undefined;
  /** Where newer transformers write theta and scaling. */
  readonly rope_parameters?: Json | null | undefined;
  readonly max_position_embeddings: number;
  readonly original_max_position_embeddings?: number | null | undefined;
}

const size = z.int().min(1);
const positive = z.number().positive();
const factor = z.number().min(1);

const llama3Schema = z.looseObject({
  factor,
  low_freq_factor: positive,
  high_freq_factor: positive,
  original_max_position_embeddings: size,
});

const linearSchema = z.looseObject({ factor });

const yarnSchema = z.looseObject({
  factor,
  original_max_position_embeddings: size.nullish(),
  attention_factor: positive.nullish(),
  beta_fast: positive.nullish(),
  beta_slow: positive.nullish(),
  mscale: z.number().nullish(),
  mscale_all_dim: z.number().nullish(),
});

const longSchema = z.looseObject({
  short_factor: z.array(positive),
  long_factor: z.array(positive),
  original_max_position_embeddings: size.nullish(),
  attention_factor: positive.nullish(),
});

function readLlama3(rope: Json, where: string): RopeScaling {
  const scaling = parseConfig(llama3Schema, rope, where);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    throw new LutraError('invalid', `${where}.high_freq_factor must be above low_freq_factor`);
  }
  return {
    factor: scaling.factor,
    lowFactor: scaling.low_freq_factor,
    highFactor: scaling.high_freq_factor,
    originalContext: scaling.original_max_position_embeddings,
  };
}

/**
 * YaRN (Peng et al. 2023) as transformers has it: frequencies that turn fewer than beta_slow times in the original
 * context are divided by the factor, those of more than beta_fast turns stay.
 */
function readYarn(rope: Json, theta: number, headDim: number, context: number, where: string): Rope {
  const yarn = parseConfig(yarnSchema, rope, where);
  if (yarn.mscale || yarn.mscale_all_dim) refuse(where, 'mscale', 'attention_factor');
  const original = yarn.original_max_position_embeddings ?? context;
  const indexOf = (turns: number) =>
    (headDim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const low = Math.max(0, Math.floor(indexOf(yarn.beta_fast ?? 32)));
  const high = Math.min(headDim - 1, Math.ceil(indexOf(yarn.beta_slow ?? 1)));
  const divisors = Array.from({ length: headDim / 2 }, (_, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / (high === low ? 0.001 : high - low)));
    return 1 / (ramp / yarn.factor + 1 - ramp);
  });
  return { theta, divisors, magnitude: yarn.attention_factor ?? 0.1 * Math.log(yarn.factor) + 1 };
}

/**
 * LongRoPE (Ding et al. 2024) as Phi-3 has it: one list of divisors within the context the model was trained on, another
 * beyond. Which of them holds for all positions is decided by the context asked for, so that cached keys stay valid.
 */
function readLong(
  rope: Json,
  config: RopeKeys,
  theta: number,
  headDim: number,
  asked: number | undefined,
  where: string,
): { readonly rope: Rope; readonly maxContext: number } {
  const long = parseConfig(longSchema, rope, where);
  const most = config.max_position_embeddings;
  const original = config.original_max_position_embeddings ?? long.original_max_position_embeddings ?? most;
  const beyond = asked !== undefined && asked > original;
  const [key, divisors] = beyond
    ? (['long_factor', long.long_factor] as const)
    : (['short_factor', long.short_factor] as const);
  if (divisors.length !== headDim / 2) {
    throw new LutraError(
      'invalid',
      `${where}.${key} has ${divisors.length} numbers, expected ${headDim / 2}, half of the head size`,
    );
  }
  const stretch = most / original;
  const magnitude =
    long.attention_factor ?? (stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(original)));
  return { rope: { theta, divisors, magnitude }, maxContext: beyond ? most : Math.min(original, most) };
}

/** transformers' default where config.json says nothing. */
const THETA = 10000;

/**
 * Base and scaling of the angles, and the positions these are for. Throws `invalid` for numbers that make no sense,
 * `unsupported` for a kind of scaling that is not known.
 */
export function readRope(
  config: RopeKeys,
  where: string,
  headDim: number,
  asked?: number,
): { readonly rope: Rope; readonly maxContext: number } {
  const maxContext = config.max_position_embeddings;
  const inParameters = config.rope_parameters?.rope_theta;
  const theta = config.rope_theta ?? (typeof inParameters === 'number' ? inParameters : THETA);
  const scaling = config.rope_scaling ?? config.rope_parameters ?? {};
  const at = `${where}: rope_scaling`;
  const kind = scaling.rope_type ?? scaling.type ?? 'default';
  switch (kind) {
    case 'default':
      return { rope: { theta }, maxContext };
    case 'llama3':
      return { rope: { theta, scaling: readLlama3(scaling, at) }, maxContext };
    case 'linear': {
      const { factor: divisor } = parseConfig(linearSchema, scaling, at);
      return { rope: { theta, divisors: [divisor] }, maxContext };
    }
    case 'yarn':
      return { rope: readYarn(scaling, theta, headDim, maxContext, at), maxContext };
    case 'longrope':
    case 'su':
      return readLong(scaling, config, theta, headDim, asked, at);
    default:
      return refuse(
        where,
        `rope_scaling of type ${JSON.stringify(kind)}`,
        'none, linear, llama3, yarn and longrope',
      );
  }
}
