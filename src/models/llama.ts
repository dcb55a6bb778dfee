import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { readDecoderConfig } from './config.ts';
import { type ImportedModel, importDecoder } from './decoder.ts';
import { readQuantization } from './quantization.ts';

/** Llamas with BitNet layers: HF1BitLLM/Llama3-8B-1.58, tiiuae/Falcon3-*-1.58bit, tiiuae/Falcon-E-*. */
export function importLlamaBitnet(checkpoint: Checkpoint, context: number | undefined): ImportedModel {
  const form = { architecture: 'llama-bitnet', quantization: readQuantization(checkpoint) };
  return importDecoder(checkpoint, readDecoderConfig(checkpoint), form, context);
}
