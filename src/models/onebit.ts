import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { readDecoderConfig } from './config.ts';
import { type ImportedModel, importDecoder } from './decoder.ts';
import type { ImportOptions } from './options.ts';
import { parseConfig, refuse } from './parse-config.ts';

const bitsSchema = z.looseObject({ weight_bits: z.int(), input_bits: z.int() });

/**
 * 1bitLLM/bitnet_b1_58-large, -xl and -3B, the reproductions of the b1.58 paper: master weights, quantized
 * online, with norms called `inner_attn_ln` and `ffn_layernorm`. `weight_bits` 1 means ternary there.
 */
export function importOneBit(checkpoint: Checkpoint, { context, ...options }: ImportOptions): ImportedModel {
  const where = `${checkpoint.path}/config.json`;
  const bits = parseConfig(bitsSchema, checkpoint.config, where);
  if (bits.weight_bits !== 1)
    refuse(where, `weight_bits ${bits.weight_bits}`, 'weight_bits 1, which is ternary');
  if (bits.input_bits !== 8) refuse(where, `input_bits ${bits.input_bits}`, 'input_bits 8');
  if (options.bits !== undefined) {
    throw new LutraError(
      'usage',
      `the weights of ${checkpoint.path} are ternary: they cannot be rounded again`,
    );
  }
  const form = {
    architecture: '1bitllm',
    quantization: { form: 'online' as const },
    subNorms: { attention: 'inner_attn_ln', feedForward: 'ffn_layernorm' },
  };
  return importDecoder(checkpoint, readDecoderConfig(checkpoint), form, context);
}
