import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { importBitnet } from './bitnet.ts';
import type { ImportedModel } from './decoder.ts';
import { importGemma3 } from './gemma3.ts';
import { importLlama } from './llama.ts';
import { importMistral } from './mistral.ts';
import { importOneBit } from './onebit.ts';
import type { ImportOptions } from './options.ts';
import { parseConfig } from './parse-config.ts';
import { importPhi3 } from './phi3.ts';
import { importQwen2, importQwen3 } from './qwen.ts';

export type { ImportOptions } from './options.ts';

const kindSchema = z.looseObject({
  model_type: z.string(),
  architectures: z.array(z.string()).nullish(),
  weight_bits: z.unknown().optional(),
});

/** By `model_type`. */
const IMPORTERS: Readonly<Record<string, (checkpoint: Checkpoint, options: ImportOptions) => ImportedModel>> =
  {
    bitnet: importBitnet,
    llama: importLlama,
    mistral: importMistral,
    qwen2: importQwen2,
    qwen3: importQwen3,
    phi3: importPhi3,
    gemma3_text: importGemma3,
  };

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
  const importer = Object.hasOwn(IMPORTERS, kind.model_type) ? IMPORTERS[kind.model_type] : undefined;
  if (importer !== undefined) return importer(checkpoint, options);
  const name = [kind.model_type, ...(kind.architectures ?? [])].join(', ');
  throw new LutraError('unsupported', `${where}: the architecture ${name} is not supported`, {
    hint: `Supported: model_type ${Object.keys(IMPORTERS).join(', ')}, and BitnetForCausalLM of 1bitLLM.`,
  });
}
