import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { parseConfig, refuse } from './config.ts';
import type { Quantization } from './info.ts';

const quantizationSchema = z.looseObject({
  quantization_config: z.looseObject({
    quant_method: z.string(),
    linear_class: z.string().nullish(),
    quantization_mode: z.string().nullish(),
    use_rms_norm: z.boolean().nullish(),
    modules_to_not_convert: z.array(z.string()).nullish(),
  }),
});

/**
 * Reads `quantization_config`, with transformers' defaults (`BitNetQuantConfig`). Its class of linear layers
 * decides what `weight_scale` means: `bitlinear` divides by it, `autobitlinear` multiplies, or in mode
 * `online` quantizes master weights and has none. Throws `unsupported` for any other quantization.
 */
export function readQuantization(checkpoint: Checkpoint): Quantization {
  const where = `${checkpoint.path}/config.json`;
  if (checkpoint.config.quantization_config === undefined) {
    refuse(where, 'a model without quantization_config', 'models quantized by the method bitnet');
  }
  const { quantization_config: config } = parseConfig(quantizationSchema, checkpoint.config, where);
  if (config.quant_method !== 'bitnet') {
    refuse(where, `the quantization ${JSON.stringify(config.quant_method)}`, 'quant_method bitnet');
  }
  if (config.use_rms_norm === true) {
    refuse(where, 'use_rms_norm (a norm in every linear layer)', 'linear layers without a norm of their own');
  }
  // Hugging Face leaves out every module whose path contains one of these.
  const left = (config.modules_to_not_convert ?? []).find((name) => !/^(lm_head|embed_tokens)$/.test(name));
  if (left !== undefined) {
    refuse(where, `leaving ${JSON.stringify(left)} unquantized (modules_to_not_convert)`, 'lm_head alone');
  }
  const linear = config.linear_class ?? 'bitlinear';
  const mode = config.quantization_mode ?? 'offline';
  if (mode !== 'offline' && mode !== 'online') {
    refuse(where, `quantization_mode ${JSON.stringify(mode)}`, 'offline and online');
  }
  if (linear === 'bitlinear') return { form: 'packed', direction: 'divide' };
  if (linear !== 'autobitlinear') {
    refuse(where, `linear_class ${JSON.stringify(linear)}`, 'bitlinear and autobitlinear');
  }
  return mode === 'online' ? { form: 'online' } : { form: 'packed', direction: 'multiply' };
}
