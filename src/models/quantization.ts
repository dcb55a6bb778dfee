import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import type { CodeBits } from '../graph/ir.ts';
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

/** What to make of a checkpoint's weights; for models of floats, and for what is not given, see the defaults. */
export interface WeightOptions {
  /** Rounds floats to codes of so many bits; default: floats stay. */
  readonly bits?: CodeBits;
  /** Columns that share a scale, a multiple of 32; default 128; `row`: all. */
  readonly group?: number | 'row';
  /** Whether the middle code is 0 in every group, or each group has a zero of its own (default). */
  readonly symmetric?: boolean;
  /** What activations are rounded to in front of weights in groups; default `ACTIVATIONS`. */
  readonly activations?: 'int8' | 'int16';
}

/** 15 bits, which is finer than f16: results are those of float activations but for their last bits. */
const ACTIVATIONS = 'int16';
const GROUP = 128;

/** Rounding of floats, as the options say; throws `usage` for what no kernel computes. */
function readRounding({
  bits,
  group = GROUP,
  symmetric = false,
  activations = ACTIVATIONS,
}: WeightOptions): Quantization {
  if (bits === undefined) return { form: 'float' };
  if (![1, 2, 3, 4, 8].includes(bits)) {
    throw new LutraError('usage', `weights can be rounded to 1, 2, 3, 4 or 8 bits, not ${bits}`);
  }
  if (group !== 'row' && (!Number.isInteger(group) || group < 32 || group % 32 !== 0)) {
    throw new LutraError('usage', `a group must be a multiple of 32 columns, or row, not ${group}`);
  }
  return { form: 'groups', format: 'round', bits, group, symmetric, activations };
}

/**
 * Reads `quantization_config`; without one, weights are floats, which the options may have rounded. Throws
 * `usage` for options that do not fit the model, `unsupported` for an unknown quantization.
 */
export function readQuantization(checkpoint: Checkpoint, options: WeightOptions): Quantization {
  if (checkpoint.config.quantization_config === undefined) return readRounding(options);
  const found = readBitnet(checkpoint);
  if (options.bits !== undefined || options.group !== undefined || options.symmetric !== undefined) {
    throw new LutraError('usage', `the weights of ${checkpoint.path} are quantized already`, {
      hint: 'Only weights that are floats can be rounded: leave the bits and the group out.',
    });
  }
  return found;
}

/**
 * Reads `quantization_config` of the method bitnet, with transformers' defaults (`BitNetQuantConfig`). Its class of linear layers
 * decides what `weight_scale` means: `bitlinear` divides by it, `autobitlinear` multiplies, or in mode
 * `online` quantizes master weights and has none. Throws `unsupported` for any other quantization.
 */
function readBitnet(checkpoint: Checkpoint): Quantization {
  const where = `${checkpoint.path}/config.json`;
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
