import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { readDecoderConfig } from './config.ts';
import { type ImportedModel, importDecoder } from './decoder.ts';
import type { ImportOptions } from './options.ts';
import { readQuantization } from './quantization.ts';
import { readSliding } from './sliding.ts';

/**
 * Phi-3 and 3.5 mini and medium, and Phi-4: a Llama whose projections of one input are stored as one. Those for long
 * contexts have angles of their own beyond what they were trained on, which hold where the context asked for is longer.
 */
export function importPhi3(checkpoint: Checkpoint, { context, ...options }: ImportOptions): ImportedModel {
  const config = readDecoderConfig(checkpoint, { context });
  const form = {
    architecture: 'phi3',
    quantization: readQuantization(checkpoint, options),
    fused: true,
    ...readSliding(checkpoint, config.layers, () => true),
  };
  return importDecoder(checkpoint, config, form, context);
}
