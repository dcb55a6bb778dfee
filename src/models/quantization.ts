import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { parseObject } from '../checkpoint/json.ts';
import { LutraError } from '../common/errors.ts';
import type { CodeBits } from '../graph/ir.ts';
import type { ActivationForm, GroupQuantization, Quantization } from './info.ts';
import { parseConfig, refuse } from './parse-config.ts';

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
  /** Rounds floats to codes of so many bits, or to trits by their mean magnitude; default: floats stay. */
  readonly bits?: CodeBits | 'ternary';
  /** Columns that share a scale, a multiple of 32; default 128, and of trits the whole matrix; `row`: all. */
  readonly group?: number | 'row';
  /**
   * Whether the middle code is 0 in every group, or each group has a zero of its own (default, but of 1 bit: with a zero
   * among its two values most weights would become 0).
   */
  readonly symmetric?: boolean;
  /**
   * What activations are rounded to in front of weights in groups: `int16` (default) or `int8`. With `byteSums`, what
   * they are rounded from: `f32` (default), `f16` or `int8`.
   */
  readonly activations?: ActivationForm['activations'];
  /** Whether sums of 4 adjacent activations are to fit a byte, as tables of bytes need it. */
  readonly byteSums?: boolean;
}

/** By default 15 bits, which is finer than f16: results are those of float activations but for their last bits. */
function activationForm({ byteSums = false, activations }: WeightOptions): ActivationForm {
  return byteSums ? { activations: activations ?? 'f32', byteSums } : { activations: activations ?? 'int16' };
}

const GROUP = 128;

const QUANTIZE_CONFIG = 'quantize_config.json';

/** Rounding of floats, as the options say; throws `usage` for what no kernel computes. */
function readRounding({
  bits,
  group = bits === 'ternary' ? 'tensor' : GROUP,
  symmetric = bits === 'ternary' || bits === 1,
  ...more
}: Omit<WeightOptions, 'group'> & { readonly group?: GroupQuantization['group'] }): Quantization {
  if (bits === undefined) return { form: 'float' };
  if (bits !== 'ternary' && ![1, 2, 3, 4, 8].includes(bits)) {
    throw new LutraError('usage', `weights can be rounded to 1, 2, 3, 4 or 8 bits, or ternary, not ${bits}`);
  }
  if (bits === 'ternary' && !symmetric) {
    throw new LutraError('usage', 'ternary weights have no zero points: symmetric cannot be false');
  }
  if (typeof group === 'number' && (!Number.isInteger(group) || group < 32 || group % 32 !== 0)) {
    throw new LutraError('usage', `a group must be a multiple of 32 columns, or row, not ${group}`);
  }
  const common = { form: 'groups' as const, group, symmetric, ...activationForm(more) };
  return bits === 'ternary'
    ? { ...common, format: 'absmean', bits: 2 }
    : { ...common, format: 'round', bits };
}

/** `quantization_config` of config.json, or the file of its own that older models of GPTQ have. */
function quantizationConfig(checkpoint: Checkpoint): unknown {
  const text = checkpoint.textFiles.get(QUANTIZE_CONFIG);
  const { quantization_config: inConfig } = checkpoint.config;
  if (inConfig !== undefined || text === undefined) return inConfig;
  return { quant_method: 'gptq', ...parseObject(text, `${checkpoint.path}/${QUANTIZE_CONFIG}`) };
}

function methodOf(checkpoint: Checkpoint): unknown {
  const config = quantizationConfig(checkpoint);
  return typeof config === 'object' && config !== null
    ? (config as { quant_method?: unknown }).quant_method
    : undefined;
}

const codesSchema = z.looseObject({
  bits: z.int().optional(),
  w_bit: z.int().optional(),
  group_size: z.int().optional(),
  q_group_size: z.int().optional(),
  sym: z.boolean().nullish(),
  desc_act: z.boolean().nullish(),
  zero_point: z.boolean().nullish(),
  version: z.string().nullish(),
  checkpoint_format: z.string().nullish(),
  lm_head: z.boolean().nullish(),
  dynamic: z.unknown().optional(),
});

/** What GPTQ or AWQ say of their codes. */
function readCodes(checkpoint: Checkpoint, method: 'gptq' | 'awq', options: WeightOptions): Quantization {
  const where = `${checkpoint.path}/config.json: quantization_config`;
  const config = parseConfig(codesSchema, quantizationConfig(checkpoint), where);
  const found = config.bits ?? config.w_bit ?? 4;
  const bits = ([2, 3, 4, 8] as const).find((candidate) => candidate === found);
  const size = config.group_size ?? config.q_group_size ?? GROUP;
  if (bits === undefined) return refuse(where, `bits ${found}`, '2, 3, 4 and 8');
  if (method === 'awq' && bits !== 4) refuse(where, `bits ${bits} of AWQ`, '4');
  if (size !== -1 && (size < 32 || size % 32 !== 0))
    refuse(where, `group_size ${size}`, 'multiples of 32, and -1');
  if (config.lm_head === true) refuse(where, 'a quantized lm_head', 'output heads in floats');
  if (config.dynamic !== undefined && config.dynamic !== null) {
    refuse(where, 'bits that differ from layer to layer (dynamic)', 'the same bits everywhere');
  }
  const group = size === -1 ? ('row' as const) : size;
  const common = { form: 'groups' as const, bits, group, ...activationForm(options) };
  if (method === 'awq') {
    const version = (config.version ?? 'gemm').toLowerCase();
    if (version !== 'gemm') refuse(where, `AWQ of version ${version}`, 'gemm');
    if (config.zero_point === false) refuse(where, 'AWQ without zero_point', 'zero_point true');
    return { ...common, format: 'awq', symmetric: false };
  }
  const stored = config.checkpoint_format ?? 'gptq';
  if (stored !== 'gptq' && stored !== 'gptq_v2') {
    refuse(where, `checkpoint_format ${JSON.stringify(stored)}`, 'gptq and gptq_v2');
  }
  return {
    ...common,
    format: 'gptq',
    symmetric: config.sym ?? true,
    zeros: stored === 'gptq' ? 'v1' : 'v2',
    ordered: config.desc_act ?? false,
  };
}

const mixedSchema = z.looseObject({
  matrices: z.record(
    z.string(),
    z.object({
      bits: z.union([z.literal(1), z.literal(2), z.literal(3), z.literal(4), z.literal(6), z.literal(8)]),
      group: z.int().min(16).multipleOf(16),
      block: z.int().multipleOf(64).max(256).optional(),
      scaleCodes: z.enum(['u4', 'u8', 'i8']).optional(),
      zero: z.number().optional(),
    }),
  ),
});

/** What a checkpoint in parts, such as one of GGUF, says of each matrix. */
function readMixed(checkpoint: Checkpoint, options: WeightOptions): Quantization {
  const where = `${checkpoint.path}: quantization_config`;
  const { matrices } = parseConfig(mixedSchema, quantizationConfig(checkpoint), where);
  return { form: 'mixed', matrices, ...activationForm(options) };
}

/**
 * Reads `quantization_config`; without one, weights are floats, which the options may have rounded. Throws
 * `usage` for options that do not fit the model, `unsupported` for an unknown quantization.
 */
export function readQuantization(checkpoint: Checkpoint, options: WeightOptions): Quantization {
  if (quantizationConfig(checkpoint) === undefined) return readRounding(options);
  const method = methodOf(checkpoint);
  const found =
    method === 'parts'
      ? readMixed(checkpoint, options)
      : method === 'gptq' || method === 'awq'
        ? readCodes(checkpoint, method, options)
        : readBitnet(checkpoint);
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
    refuse(
      where,
      `the quantization ${JSON.stringify(config.quant_method)}`,
      'quant_method bitnet, gptq and awq',
    );
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
