import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { readDecoderConfig } from './config.ts';
import { type ImportedModel, importDecoder } from './decoder.ts';
import { readProjections } from './input-norms.ts';
import type { ImportOptions } from './options.ts';
import { parseConfig, refuse } from './parse-config.ts';
import { readRope } from './rope-config.ts';
import { readSliding } from './sliding.ts';

const rope = z.looseObject({ rope_theta: z.number().positive().nullish() });

const schema = z.looseObject({
  query_pre_attn_scalar: z.number().positive().nullish(),
  rope_theta: z.number().positive().nullish(),
  rope_local_base_freq: z.number().positive().nullish(),
  rope_scaling: z.looseObject({}).nullish(),
  /** Where newer transformers write theta and scaling, for each type of layer. */
  rope_parameters: z
    .looseObject({ full_attention: rope.nullish(), sliding_attention: rope.nullish() })
    .nullish(),
  max_position_embeddings: z.int().min(1),
  sliding_window_pattern: z.int().min(1).nullish(),
  _sliding_window_pattern: z.int().min(1).nullish(),
  attn_logit_softcapping: z.number().nullish(),
  final_logit_softcapping: z.number().nullish(),
  use_bidirectional_attention: z.boolean().nullish(),
});

/** transformers' defaults. */
const [THETA, LOCAL_THETA, QUERY_SCALAR, PATTERN] = [1e6, 1e4, 256, 6];

/** Gemma 3 for text (270M, 1B): every sixth layer sees all positions, the others a window, with angles of their own. */
export function importGemma3(checkpoint: Checkpoint, { context, ...options }: ImportOptions): ImportedModel {
  const where = `${checkpoint.path}/config.json`;
  const own = parseConfig(schema, checkpoint.config, where);
  for (const key of ['attn_logit_softcapping', 'final_logit_softcapping'] as const) {
    if (own[key] !== undefined && own[key] !== null) refuse(where, key, 'models without it, as Gemma 3 is');
  }
  if (own.use_bidirectional_attention === true) {
    refuse(where, 'use_bidirectional_attention', 'tokens that see what is before them');
  }
  const config = readDecoderConfig(checkpoint, { context });
  const { full_attention: full, sliding_attention: near } = own.rope_parameters ?? {};
  const { rope: far } = readRope(
    {
      rope_theta: own.rope_theta ?? full?.rope_theta ?? THETA,
      rope_scaling: own.rope_scaling ?? full,
      max_position_embeddings: config.maxContext,
    },
    where,
    config.headDim,
  );
  const pattern = own.sliding_window_pattern ?? own._sliding_window_pattern ?? PATTERN;
  const { sliding } = readSliding(checkpoint, config.layers, (layer) => (layer + 1) % pattern !== 0);
  const theta = own.rope_local_base_freq ?? near?.rope_theta ?? LOCAL_THETA;
  const form = {
    architecture: 'gemma3',
    ...readProjections(checkpoint, options),
    headNorms: true,
    gemmaNorms: true,
    scaledEmbedding: true,
    queryScalar: own.query_pre_attn_scalar ?? QUERY_SCALAR,
    ...(sliding === undefined ? {} : { sliding: { ...sliding, rope: { theta } } }),
  };
  return importDecoder(checkpoint, { ...config, ropeTheta: far.theta, rope: far }, form, context);
}
