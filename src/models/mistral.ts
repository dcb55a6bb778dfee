import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { readDecoderConfig } from './config.ts';
import { type ImportedModel, importDecoder } from './decoder.ts';
import type { ImportOptions } from './options.ts';
import { readQuantization } from './quantization.ts';
import { readSliding } from './sliding.ts';

/** Mistral 7B, Nemo and their kin: a Llama, in whose first versions all layers have a sliding window. */
export function importMistral(checkpoint: Checkpoint, { context, ...options }: ImportOptions): ImportedModel {
  const config = readDecoderConfig(checkpoint, { context });
  const form = {
    architecture: 'mistral',
    quantization: readQuantization(checkpoint, options),
    ...readSliding(checkpoint, config.layers, () => true),
  };
  return importDecoder(checkpoint, config, form, context);
}
