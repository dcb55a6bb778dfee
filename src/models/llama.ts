import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { readDecoderConfig } from './config.ts';
import { type ImportedModel, importDecoder } from './decoder.ts';
import type { ImportOptions } from './options.ts';
import { readQuantization } from './quantization.ts';

/**
 * Llamas, with weights in floats, or with BitNet layers: HF1BitLLM/Llama3-8B-1.58, tiiuae/Falcon3-*-1.58bit,
 * tiiuae/Falcon-E-*.
 */
export function importLlama(checkpoint: Checkpoint, { context, ...options }: ImportOptions): ImportedModel {
  const quantization = readQuantization(checkpoint, options);
  const ternary = quantization.form === 'packed' || quantization.form === 'online';
  const config = readDecoderConfig(checkpoint, { biases: !ternary, context });
  const { attention, mlp } = config.biases;
  const form = {
    architecture: ternary ? 'llama-bitnet' : 'llama',
    quantization,
    biases: { qkv: attention, output: attention, mlp },
  };
  return importDecoder(checkpoint, config, form, context);
}
