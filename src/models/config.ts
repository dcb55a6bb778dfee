import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import type { RopeScaling } from '../graph/ir.ts';

const size = z.int().min(1);
const positive = z.number().positive();
const tokenIds = z.union([z.int().min(0), z.array(z.int().min(0))]).nullish();

/** The keys of config.json that Llama-shaped decoders have, in Hugging Face's names. */
const decoderSchema = z.looseObject({
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size,
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  vocab_size: size,
  max_position_embeddings: size,
  rms_norm_eps: positive,
  hidden_act: z.string(),
  rope_theta: positive.nullish(),
  rope_scaling: z.looseObject({}).nullish(),
  /** Where newer transformers write theta and scaling. */
  rope_parameters: z.looseObject({ rope_theta: positive.optional() }).nullish(),
  partial_rotary_factor: z.number().nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  bos_token_id: tokenIds,
  eos_token_id: tokenIds,
});

const llama3Scaling = z.looseObject({
  factor: z.number().min(1),
  low_freq_factor: positive,
  high_freq_factor: positive,
  original_max_position_embeddings: size,
});

/** A decoder's shape, checked and with defaults filled in. */
export interface DecoderConfig {
  readonly hidden: number;
  readonly intermediate: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  readonly maxContext: number;
  readonly normEps: number;
  readonly activation: 'relu2' | 'silu';
  readonly ropeTheta: number;
  readonly ropeScaling?: RopeScaling;
  readonly tied: boolean;
  readonly bosId?: number;
  readonly eosIds: readonly number[];
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let value = root;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | null | undefined)?.[key];
  return value;
}

/** Parses `input` or throws `invalid` naming the key, what it is and what was expected. */
export function parseConfig<T>(schema: z.ZodType<T>, input: unknown, where: string): T {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const key = issue.path.join('.');
  const value = valueAt(input, issue.path);
  const found = value === undefined ? 'is missing' : `is ${JSON.stringify(value)}`;
  throw new LutraError('invalid', `${where}: ${key} ${found} (${issue.message})`, {
    hint: 'Take config.json as the model was published.',
  });
}

/** Throws `unsupported`: `where` has `what`, which lutra cannot handle, but can `instead`. */
export function refuse(where: string, what: string, instead: string): never {
  throw new LutraError('unsupported', `${where}: ${what} is not supported`, {
    hint: `Supported: ${instead}.`,
  });
}

function readScaling(rope: Readonly<Record<string, unknown>>, where: string): RopeScaling | undefined {
  const kind = rope.rope_type ?? rope.type ?? 'default';
  if (kind === 'default') return undefined;
  if (kind !== 'llama3') refuse(where, `rope_scaling of type ${JSON.stringify(kind)}`, 'none, or llama3');
  const scaling = parseConfig(llama3Scaling, rope, `${where}: rope_scaling`);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    throw new LutraError('invalid', `${where}: rope_scaling.high_freq_factor must be above low_freq_factor`);
  }
  return {
    factor: scaling.factor,
    lowFactor: scaling.low_freq_factor,
    highFactor: scaling.high_freq_factor,
    originalContext: scaling.original_max_position_embeddings,
  };
}

function asList(ids: number | readonly number[] | null | undefined): readonly number[] {
  if (ids === null || ids === undefined) return [];
  return typeof ids === 'number' ? [ids] : ids;
}

const generationSchema = z.looseObject({ bos_token_id: tokenIds, eos_token_id: tokenIds });

/**
 * Reads the decoder's shape from config.json. Throws `invalid`, naming the key, for what is missing or
 * makes no sense, and `unsupported` for what lutra cannot handle.
 */
export function readDecoderConfig(checkpoint: Checkpoint): DecoderConfig {
  const where = `${checkpoint.path}/config.json`;
  const config = parseConfig(decoderSchema, checkpoint.config, where);
  const generation = parseConfig(
    generationSchema,
    checkpoint.generationConfig,
    `${checkpoint.path}/generation_config.json`,
  );
  const { hidden_size: hidden, num_attention_heads: heads, hidden_act: activation } = config;
  const kvHeads = config.num_key_value_heads ?? heads;
  const headDim = config.head_dim ?? hidden / heads;
  if (heads % kvHeads !== 0) {
    throw new LutraError(
      'invalid',
      `${where}: num_attention_heads ${heads} is no multiple of num_key_value_heads ${kvHeads}`,
    );
  }
  if (!Number.isInteger(headDim)) {
    throw new LutraError(
      'invalid',
      `${where}: hidden_size ${hidden} is no multiple of num_attention_heads ${heads}`,
    );
  }
  if (headDim % 2 !== 0) refuse(where, `head_dim ${headDim}`, 'even ones');
  if (activation !== 'relu2' && activation !== 'silu') {
    refuse(where, `hidden_act ${JSON.stringify(activation)}`, 'relu2 and silu');
  }
  if (config.attention_bias === true) refuse(where, 'attention_bias', 'projections without bias');
  if (config.mlp_bias === true) refuse(where, 'mlp_bias', 'projections without bias');
  if ((config.partial_rotary_factor ?? 1) !== 1) {
    refuse(where, `partial_rotary_factor ${config.partial_rotary_factor}`, 'rotation of whole heads');
  }
  const ropeTheta = config.rope_theta ?? config.rope_parameters?.rope_theta;
  if (ropeTheta === undefined) {
    throw new LutraError('invalid', `${where}: rope_theta is missing (expected a number above 0)`);
  }
  const ropeScaling = readScaling(config.rope_scaling ?? config.rope_parameters ?? {}, where);
  const bosId = [...asList(generation.bos_token_id), ...asList(config.bos_token_id)][0];
  return {
    hidden,
    intermediate: config.intermediate_size,
    layers: config.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    vocab: config.vocab_size,
    maxContext: config.max_position_embeddings,
    normEps: config.rms_norm_eps,
    activation,
    ropeTheta,
    ...(ropeScaling === undefined ? {} : { ropeScaling }),
    tied: config.tie_word_embeddings ?? !checkpoint.tensors.has('lm_head.weight'),
    ...(bosId === undefined ? {} : { bosId }),
    eosIds: [...new Set([...asList(config.eos_token_id), ...asList(generation.eos_token_id)])],
  };
}
