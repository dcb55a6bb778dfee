/** The metadata of a GGUF file as the config.json and generation_config.json that the model would have. */

import { LutraError } from '../../common/errors.ts';
import { malformed, quote } from '../failure.ts';
import type { GroupedForm } from './groups.ts';
import type { GgufValue } from './header.ts';

export type Metadata = ReadonlyMap<string, GgufValue>;

type Config = Record<string, unknown>;

/** Architectures with sub-norms and ternary weights, whatever their type. */
const BITNETS: ReadonlySet<string> = new Set(['bitnet', 'bitnet-25', 'bitnet-b1.58']);

export function isBitnet(architecture: string): boolean {
  return BITNETS.has(architecture);
}

/** Architectures as llama.cpp names them: their class and their `model_type`. */
const OTHERS: ReadonlyMap<string, readonly [name: string, type: string]> = new Map([
  ['llama', ['LlamaForCausalLM', 'llama']],
  ['qwen2', ['Qwen2ForCausalLM', 'qwen2']],
  ['qwen3', ['Qwen3ForCausalLM', 'qwen3']],
  ['phi3', ['Phi3ForCausalLM', 'phi3']],
  ['gemma3', ['Gemma3ForCausalLM', 'gemma3_text']],
]);

/** `general.architecture`; throws `invalid` when there is none, `unsupported` for one lutra does not know. */
export function architectureOf(metadata: Metadata, file: string): string {
  const name = metadata.get('general.architecture');
  if (typeof name !== 'string') throw malformed(file, 'it names no general.architecture', 'a model');
  if (isBitnet(name) || OTHERS.has(name)) return name;
  throw new LutraError('unsupported', `${file}: the architecture ${quote(name)} is not supported`, {
    hint: `Supported in GGUF: ${[...BITNETS, ...OTHERS.keys()].join(', ')}.`,
  });
}

/** What is known of the tensors before any is read. */
export interface TensorFacts {
  readonly vocab: number;
  readonly tied: boolean;
  /** Whether projections are ternary. */
  readonly ternary: boolean;
  /** Matrices of codes, by name. */
  readonly matrices?: Readonly<Record<string, GroupedForm>>;
  /** Llama 3.1's frequency factors, `rope_freqs.weight`. */
  readonly ropeFactors?: Float32Array;
  /** LongRoPE's, `rope_factors_short.weight` and `rope_factors_long.weight`. */
  readonly longFactors?: { readonly short: Float32Array; readonly long: Float32Array };
  /** Whether projections of attention, and of feed-forward, have biases. */
  readonly biases?: { readonly attention: boolean; readonly mlp: boolean };
}

/**
 * Builds config.json. Numbers that files have as f32 become the shortest decimals that round to them.
 * @throws `invalid` naming a key that is missing or no number, `unsupported` for one whose value lutra cannot compute
 */
export function modelConfig(metadata: Metadata, facts: TensorFacts, file: string): Config {
  const architecture = architectureOf(metadata, file);
  const reader = new Reader(metadata, architecture, file);
  const hidden = reader.size('embedding_length');
  const heads = reader.size('attention.head_count');
  const headDim = reader.optional('attention.key_length') ?? hidden / heads;
  const rotated = reader.optional('rope.dimension_count') ?? headDim;
  if (rotated !== headDim) reader.refuse('rope.dimension_count', `${rotated} of head size ${headDim}`);
  const theta = reader.optional('rope.freq_base') ?? 10000;
  const { class: name, type, ...own } = ownConfig(metadata, architecture, reader, { heads, headDim });
  return {
    architectures: [name],
    model_type: type,
    hidden_size: hidden,
    intermediate_size: reader.size('feed_forward_length'),
    num_hidden_layers: reader.size('block_count'),
    num_attention_heads: heads,
    num_key_value_heads: reader.optional('attention.head_count_kv') ?? heads,
    head_dim: headDim,
    vocab_size: facts.vocab,
    max_position_embeddings: reader.size('context_length'),
    rms_norm_eps: reader.number('attention.layer_norm_rms_epsilon'),
    rope_theta: theta,
    ...ropeScaling(metadata, reader, facts, { theta, headDim }, file),
    ...own,
    ...(facts.biases?.attention ? { attention_bias: true } : {}),
    ...(facts.biases?.mlp ? { mlp_bias: true } : {}),
    tie_word_embeddings: facts.tied,
    ...ids(metadata),
    ...(facts.matrices === undefined
      ? {}
      : { quantization_config: { quant_method: 'parts', matrices: facts.matrices } }),
    ...(facts.ternary
      ? {
          quantization_config: {
            quant_method: 'bitnet',
            linear_class: 'autobitlinear',
            quantization_mode: 'offline',
          },
        }
      : {}),
  };
}

/** What an architecture has besides the rest; files leave out what llama.cpp knows by itself. */
function ownConfig(
  metadata: Metadata,
  architecture: string,
  reader: Reader,
  { heads, headDim }: { readonly heads: number; readonly headDim: number },
): Config & { readonly class: string; readonly type: string } {
  for (const key of [
    'attn_logit_softcapping',
    'final_logit_softcapping',
    'attention.scale',
    'expert_count',
  ]) {
    if ((reader.optional(key) ?? 0) !== 0) reader.refuse(key, String(reader.optional(key)));
  }
  if (isBitnet(architecture)) {
    return { class: 'BitNetForCausalLM', type: 'bitnet', hidden_act: activation(metadata, architecture) };
  }
  const [name, type] = OTHERS.get(architecture)!;
  const window = reader.optional('attention.sliding_window');
  const context = reader.size('context_length');
  switch (architecture) {
    case 'gemma3': {
      const layers = reader.size('block_count');
      const local = reader.optional('rope.freq_base_swa') ?? 10000;
      return {
        class: name,
        type,
        hidden_activation: 'gelu_pytorch_tanh',
        sliding_window: reader.size('attention.sliding_window'),
        sliding_window_pattern: reader.pattern('attention.sliding_window_pattern', layers) ?? 6,
        rope_local_base_freq: local,
        // Only the model of 27B scales by something other than its heads.
        query_pre_attn_scalar: layers === 62 ? reader.size('embedding_length') / heads : headDim,
      };
    }
    case 'phi3':
      return { class: name, type, hidden_act: 'silu', ...(window ? { sliding_window: window } : {}) };
    case 'llama':
      // The first versions of Mistral, which llama.cpp calls llama as well.
      return window !== undefined && window > 0 && window < context
        ? { class: 'MistralForCausalLM', type: 'mistral', hidden_act: 'silu', sliding_window: window }
        : { class: name, type, hidden_act: 'silu' };
    default:
      if (window !== undefined && window > 0 && window < context) {
        reader.refuse('attention.sliding_window', String(window));
      }
      return { class: name, type, hidden_act: 'silu' };
  }
}

/** `rope_scaling` of config.json, where positions are scaled. */
function ropeScaling(
  metadata: Metadata,
  reader: Reader,
  facts: TensorFacts,
  { theta, headDim }: { readonly theta: number; readonly headDim: number },
  file: string,
): Config {
  const kind = metadata.get(`${reader.architecture}.rope.scaling.type`) ?? 'none';
  const original = reader.optional('rope.scaling.original_context_length');
  const attention = reader.optional('rope.scaling.attn_factor');
  if (facts.longFactors !== undefined) {
    const { short, long } = facts.longFactors;
    return {
      ...(original === undefined ? {} : { original_max_position_embeddings: original }),
      rope_scaling: {
        rope_type: 'longrope',
        short_factor: Array.from(short, shortest),
        long_factor: Array.from(long, shortest),
        ...(attention === undefined ? {} : { attention_factor: attention }),
      },
    };
  }
  if (facts.ropeFactors !== undefined) {
    const found = findScaling(facts.ropeFactors, theta, headDim, file);
    return found === undefined ? {} : { rope_scaling: found };
  }
  const factor = reader.optional('rope.scaling.factor') ?? reader.optional('rope.scale_linear') ?? 1;
  if (kind === 'none' || (kind === 'linear' && factor === 1)) return {};
  if (kind === 'linear') return { rope_scaling: { rope_type: 'linear', factor } };
  if (kind !== 'yarn') return reader.refuse('rope.scaling.type', String(kind));
  const optional = (name: string, key: string) => {
    const value = reader.optional(key);
    return value === undefined ? {} : { [name]: value };
  };
  return {
    rope_scaling: {
      rope_type: 'yarn',
      factor,
      ...(original === undefined ? {} : { original_max_position_embeddings: original }),
      ...(attention === undefined ? {} : { attention_factor: attention * (0.1 * Math.log(factor) + 1) }),
      ...optional('beta_fast', 'rope.scaling.yarn_beta_fast'),
      ...optional('beta_slow', 'rope.scaling.yarn_beta_slow'),
    },
  };
}

/** llama.cpp has SiLU where a `bitnet` says nothing; the other two are Microsoft's, whose models square ReLU. */
function activation(metadata: Metadata, architecture: string): string {
  const named = metadata.get(`${architecture}.hidden_activation`);
  if (typeof named === 'string') return named;
  return architecture === 'bitnet-25' || architecture === 'bitnet-b1.58' ? 'relu2' : 'silu';
}

class Reader {
  readonly architecture: string;
  readonly #metadata: Metadata;
  readonly #file: string;

  constructor(metadata: Metadata, architecture: string, file: string) {
    this.#metadata = metadata;
    this.architecture = architecture;
    this.#file = file;
  }

  optional(key: string): number | undefined {
    const value = this.#metadata.get(`${this.architecture}.${key}`);
    if (value === undefined) return undefined;
    // Some keys may have a value for each layer.
    const values = Array.isArray(value) ? value : [value];
    const [first] = values;
    if (typeof first !== 'number' || values.some((other) => other !== first)) {
      throw malformed(this.#file, `${this.architecture}.${key} is no single number`, 'one number');
    }
    return shortest(first);
  }

  number(key: string): number {
    const value = this.optional(key);
    if (value !== undefined) return value;
    throw malformed(this.#file, `it has no ${this.architecture}.${key}`, 'a number');
  }

  size(key: string): number {
    const value = this.number(key);
    if (Number.isSafeInteger(value) && value > 0) return value;
    throw malformed(this.#file, `${this.architecture}.${key} is ${value}`, 'an integer above 0');
  }

  /** Every how many layers one sees all positions: a number, or for each layer whether it slides. */
  pattern(key: string, layers: number): number | undefined {
    const value = this.#metadata.get(`${this.architecture}.${key}`);
    if (!Array.isArray(value)) return value === undefined ? undefined : this.size(key);
    const period = value.findIndex((slides) => !slides) + 1;
    const regular = value.every((slides, layer) => Boolean(slides) === ((layer + 1) % period !== 0));
    if (period === 0 || value.length !== layers || !regular) this.refuse(key, 'of no fixed period');
    return period;
  }

  refuse(key: string, what: string): never {
    throw new LutraError(
      'unsupported',
      `${this.#file}: ${this.architecture}.${key} ${quote(what)} is not supported`,
      {
        hint: 'Get the model as safetensors, or another one: docs/formats.md lists what lutra computes.',
      },
    );
  }
}

/** 0.00001 for 9.99999974e-6: what was written before it was rounded to f32. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === value) return candidate;
  }
  return value;
}

function idOf(metadata: Metadata, key: string): number | undefined {
  const value = metadata.get(`tokenizer.ggml.${key}_token_id`);
  // llama.cpp writes -1, or all ones, for none.
  return typeof value === 'number' && value >= 0 && value < 0xffffffff ? value : undefined;
}

/** Tokens by whose names llama.cpp knows that they end a turn. */
const END_NAMES: ReadonlySet<string> = new Set([
  '<|eot_id|>',
  '<|im_end|>',
  '<|end|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|eom_id|>',
  '<EOT>',
  '_<EOT>',
]);

function ids(metadata: Metadata): Config {
  const bos = idOf(metadata, 'bos');
  const ends = new Set<number>();
  for (const key of ['eos', 'eot', 'eom']) {
    const id = idOf(metadata, key);
    if (id !== undefined) ends.add(id);
  }
  const tokens = metadata.get('tokenizer.ggml.tokens');
  const types = metadata.get('tokenizer.ggml.token_type');
  if (Array.isArray(tokens) && Array.isArray(types)) {
    for (const [id, token] of tokens.entries()) {
      if (types[id] === CONTROL && END_NAMES.has(String(token))) ends.add(id);
    }
  }
  return {
    ...(bos === undefined ? {} : { bos_token_id: bos }),
    ...(ends.size === 0 ? {} : { eos_token_id: [...ends] }),
  };
}

const CONTROL = 3;

/** generation_config.json: how to draw tokens, where the file recommends anything. */
export function generationConfig(metadata: Metadata): Config {
  const config: Config = ids(metadata);
  for (const [name, key] of [
    ['temp', 'temperature'],
    ['top_k', 'top_k'],
    ['top_p', 'top_p'],
    ['min_p', 'min_p'],
    ['penalty_repeat', 'repetition_penalty'],
  ] as const) {
    const value = metadata.get(`general.sampling.${name}`);
    if (typeof value === 'number') config[key] = shortest(value);
  }
  return typeof config.temperature === 'number' && config.temperature > 0
    ? { ...config, do_sample: true }
    : config;
}

/** Lengths of the original context that published models have. */
const ORIGINAL_CONTEXTS = [8192, 4096, 2048, 16384, 32768];

/**
 * The parameters of Llama 3.1's scaling that give these factors: files have only the factors, by which
 * frequencies are divided. They are all 1 up to a frequency, then rise to a constant.
 */
function findScaling(
  factors: Float32Array,
  theta: number,
  headDim: number,
  file: string,
): Config | undefined {
  if (factors.every((factor) => factor === 1)) return undefined;
  const factor = shortest(factors.reduce((a, b) => Math.max(a, b)));
  for (const original of ORIGINAL_CONTEXTS) {
    for (const [low, high] of [
      [1, 4],
      [1, 2],
      [1, 8],
    ] as const) {
      const fits = factors.every((found, i) => {
        const turns = (original * theta ** ((-2 * i) / headDim)) / (2 * Math.PI);
        const share = Math.min(Math.max((turns - low) / (high - low), 0), 1);
        return Math.abs(found * ((1 - share) / factor + share) - 1) < 1e-4;
      });
      if (!fits || factors.length !== headDim / 2) continue;
      return {
        rope_type: 'llama3',
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: original,
      };
    }
  }
  throw new LutraError(
    'unsupported',
    `${file}: the factors in rope_freqs.weight are none of Llama 3.1's scaling`,
    {
      hint: 'Get the model as safetensors, whose config.json says how positions are scaled.',
    },
  );
}
