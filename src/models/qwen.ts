import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { type DecoderConfig, readDecoderConfig } from './config.ts';
import { type DecoderForm, type ImportedModel, importDecoder } from './decoder.ts';
import { readProjections } from './input-norms.ts';
import type { ImportOptions } from './options.ts';
import { parseConfig } from './parse-config.ts';
import { readQuantization } from './quantization.ts';
import { readSliding } from './sliding.ts';

const windowSchema = z.looseObject({
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.int().min(0).nullish(),
});

/** Layers from `max_window_layers` on have a window, where `use_sliding_window` says so. */
function readWindow(checkpoint: Checkpoint, { layers }: DecoderConfig): Pick<DecoderForm, 'sliding'> {
  const where = `${checkpoint.path}/config.json`;
  const { use_sliding_window: use, max_window_layers: first } = parseConfig(
    windowSchema,
    checkpoint.config,
    where,
  );
  return use === true ? readSliding(checkpoint, layers, (layer) => layer >= (first ?? 28)) : {};
}

/** Qwen 2 and 2.5: a Llama whose queries, keys and values have a bias. */
export function importQwen2(checkpoint: Checkpoint, { context, ...options }: ImportOptions): ImportedModel {
  const config = readDecoderConfig(checkpoint, { context });
  const form = {
    architecture: 'qwen2',
    quantization: readQuantization(checkpoint, options),
    biases: { qkv: true },
    ...readWindow(checkpoint, config),
  };
  return importDecoder(checkpoint, config, form, context);
}

/** Qwen 3 without experts: a Llama with heads of a size of their own, normed before they are turned. */
export function importQwen3(checkpoint: Checkpoint, { context, ...options }: ImportOptions): ImportedModel {
  const config = readDecoderConfig(checkpoint, { biases: true, context });
  const form = {
    architecture: 'qwen3',
    ...readProjections(checkpoint, options),
    biases: { qkv: config.biases.attention, output: config.biases.attention },
    headNorms: true,
    ...readWindow(checkpoint, config),
  };
  return importDecoder(checkpoint, config, form, context);
}
