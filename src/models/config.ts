import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { parseConfig, refuse } from './parse-config.ts';
import { type Rope, readRope } from './rope-config.ts';

const size = z.int().min(1);
const positive = z.number().positive();
const tokenIds = z.union([z.int().min(0), z.array(z.int().min(0))]).nullish();

/** What lists of layers and of frequencies can be made for; far beyond any model. */
const [MAX_LAYERS, MAX_HEAD_DIM] = [10_000, 65_536];

/** The keys of config.json that Llama-shaped decoders have, in Hugging Face's names. */
const decoderSchema = z.looseObject({
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size.max(MAX_LAYERS),
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  vocab_size: size,
  max_position_embeddings: size,
  rms_norm_eps: positive,
  hidden_act: z.string().nullish(),
  hidden_activation: z.string().nullish(),
  rope_theta: positive.nullish(),
  original_max_position_embeddings: size.nullish(),
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

/** What an architecture makes of its config.json. */
export interface ConfigTraits {
  /** `attention_bias` and `mlp_bias` say which projections have one; else they are refused. */
  readonly biases?: boolean;
  /** Positions that are asked for: some models have other angles where these are more than they were trained on. */
  readonly context?: number | undefined;
}

const ACTIVATIONS: Readonly<Record<string, DecoderConfig['activation']>> = {
  relu2: 'relu2',
  silu: 'silu',
  gelu_pytorch_tanh: 'gelu',
};

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
  readonly activation: 'relu2' | 'silu' | 'gelu';
  readonly ropeTheta: number;
  readonly rope: Rope;
  readonly biases: { readonly attention: boolean; readonly mlp: boolean };
  readonly tied: boolean;
  readonly bosId?: number;
  readonly eosIds: readonly number[];
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
export function readDecoderConfig(checkpoint: Checkpoint, traits: ConfigTraits = {}): DecoderConfig {
  const where = `${checkpoint.path}/config.json`;
  const config = parseConfig(decoderSchema, checkpoint.config, where);
  const generation = parseConfig(
    generationSchema,
    checkpoint.generationConfig,
    `${checkpoint.path}/generation_config.json`,
  );
  const { hidden_size: hidden, num_attention_heads: heads } = config;
  const named = config.hidden_activation ?? config.hidden_act;
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
  if (headDim % 2 !== 0 || headDim > MAX_HEAD_DIM) {
    refuse(where, `head_dim ${headDim}`, `even ones up to ${MAX_HEAD_DIM}`);
  }
  if (named === undefined || named === null) {
    throw new LutraError('invalid', `${where}: hidden_act is missing (expected the name of an activation)`);
  }
  const activation = ACTIVATIONS[named];
  if (activation === undefined) {
    return refuse(where, `hidden_act ${JSON.stringify(named)}`, Object.keys(ACTIVATIONS).join(', '));
  }
  const biases = { attention: config.attention_bias === true, mlp: config.mlp_bias === true };
  if (traits.biases !== true) {
    if (biases.attention) refuse(where, 'attention_bias', 'projections without bias');
    if (biases.mlp) refuse(where, 'mlp_bias', 'projections without bias');
  }
  if ((config.partial_rotary_factor ?? 1) !== 1) {
    refuse(where, `partial_rotary_factor ${config.partial_rotary_factor}`, 'rotation of whole heads');
  }
  const { rope, maxContext } = readRope(config, where, headDim, traits.context);
  const bosId = [...asList(generation.bos_token_id), ...asList(config.bos_token_id)][0];
  return {
    hidden,
    intermediate: config.intermediate_size,
    layers: config.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    vocab: config.vocab_size,
    maxContext,
    normEps: config.rms_norm_eps,
    activation,
    ropeTheta: rope.theta,
    rope,
    biases,
    tied: config.tie_word_embeddings ?? !checkpoint.tensors.has('lm_head.weight'),
    ...(bosId === undefined ? {} : { bosId }),
    eosIds: [...new Set([...asList(config.eos_token_id), ...asList(generation.eos_token_id)])],
  };
}
