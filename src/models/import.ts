import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { importBitnet } from './bitnet.ts';
import { parseConfig } from './config.ts';
import type { ImportedModel } from './decoder.ts';
import { importLlama } from './llama.ts';
import { importOneBit } from './onebit.ts';
import type { ImportOptions } from './options.ts';

export type { ImportOptions } from './options.ts';

const kindSchema = z.looseObject({
  model_type: z.string(),
  architectures: z.array(z.string()).nullish(),
  weight_bits: z.unknown().optional(),
});

const SUPPORTED = [
  'bitnet (microsoft/bitnet-b1.58-2B-4T)',
  'BitnetForCausalLM of 1bitLLM',
  'llama in floats or quantized by GPTQ or AWQ',
  'llama with quant_method bitnet (Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E)',
].join('; ');

/**
 * Turns a checkpoint into the graph of its forward step, reading nothing but headers and config. Throws
 * `unsupported` for an architecture, quantization or feature that lutra cannot handle, `invalid` or
 * `not-found` for a config or tensors that are wrong or missing, all by name.
 */
export function importModel(checkpoint: Checkpoint, options: ImportOptions = {}): ImportedModel {
  const where = `${checkpoint.path}/config.json`;
  const kind = parseConfig(kindSchema, checkpoint.config, where);
  // 1bitLLM's models call themselves llama, and differ from it by their class and keys of their own.
  if (kind.weight_bits !== undefined || kind.architectures?.includes('BitnetForCausalLM') === true) {
    return importOneBit(checkpoint, options);
  }
  if (kind.model_type === 'bitnet') return importBitnet(checkpoint, options);
  if (kind.model_type === 'llama') return importLlama(checkpoint, options);
  const name = [kind.model_type, ...(kind.architectures ?? [])].join(', ');
  throw new LutraError('unsupported', `${where}: the architecture ${name} is not supported`, {
    hint: `Supported: ${SUPPORTED}.`,
  });
}
