import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { readDecoderConfig } from './config.ts';
import { type ImportedModel, importDecoder } from './decoder.ts';
import type { ImportOptions } from './options.ts';
import { readQuantization } from './quantization.ts';

/** microsoft/bitnet-b1.58-2B-4T and its kin: packed (`offline`) or as master weights (`online`). */
export function importBitnet(checkpoint: Checkpoint, { context, ...options }: ImportOptions): ImportedModel {
  const form = {
    architecture: 'bitnet',
    quantization: readQuantization(checkpoint, options),
    subNorms: { attention: 'attn_sub_norm', feedForward: 'ffn_sub_norm' },
  };
  return importDecoder(checkpoint, readDecoderConfig(checkpoint), form, context);
}
