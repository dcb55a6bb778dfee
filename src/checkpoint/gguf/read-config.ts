/** The metadata of a GGUF file as the config.json and generation_config.json that the model would have. */
import { LutraError } from '../../common/errors.ts';
import { malformed, quote } from '../failure.ts';
import type { GgufValue } from './header.ts';

export type Metadata = ReadonlyMap<string, GgufValue>;

type Config = Record<string, unknown>;

/** Architectures with sub-norms and ternary weights, whatever their type. */
const BITNETS: ReadonlySet<string> = new Set(['bitnet', 'bitnet-25', 'bitnet-b1.58']);

export function isBitnet(architecture: string): boolean {
  return BITNETS.has(architecture);
}

/** `general.architecture`; throws `invalid` when there is none, `unsupported` for one lutra does not know. */
export function architectureOf(metadata: Metadata, file: string): string {
  const name = metadata.get('general.architecture');
  if (typeof name !== 'string') throw malformed(file, 'it names no general.architecture', 'a model');
  if (isBitnet(name) || name === 'llama') return name;
  throw new LutraError('unsupported', `${file}: the architecture ${quote(name)} is not supported`, {
    hint: `Supported in GGUF: ${[...BITNETS, 'llama'].join(', ')}.`,
  });
}

/** A matrix of codes: `scale * (code - zero)`, or with minima `scale * code - minimum`. */
export interface StoredCodes {
  readonly bits: number;
  /** Columns that share a scale. */
  readonly group: number;
  /** The code that is 0; absent where there are minima. */
  readonly zero?: number;
}

/** What is known of the tensors before any is read. */
export interface TensorFacts {
  readonly vocab: number;
  readonly tied: boolean;
  /** Whether projections are ternary. */
  readonly ternary: boolean;
  /** Matrices of codes, by name. */
  readonly matrices?: Readonly<Record<string, StoredCodes>>;
  /** Llama 3.1's frequency factors, `rope_freqs.weight`. */
  readonly ropeFactors?: Float32Array;
}

/**
 * Builds config.json. Numbers that files have as f32 become the shortest decimals that round to them.
 * @throws `invalid` naming a key that is missing or no number, `unsupported` for scaling of positions
 */
export function modelConfig(metadata: Metadata, facts: TensorFacts, file: string): Config {
  const architecture = architectureOf(metadata, file);
  const reader = new Reader(metadata, architecture, file);
  const hidden = reader.size('embedding_length');
  const heads = reader.size('attention.head_count');
  const headDim = reader.optional('attention.key_length') ?? hidden / heads;
  const rotated = reader.optional('rope.dimension_count') ?? headDim;
  if (rotated !== headDim) reader.refuse('rope.dimension_count', `${rotated} of head size ${headDim}`);
  const scaling = metadata.get(`${architecture}.rope.scaling.type`);
  const factor = reader.optional('rope.scaling.factor') ?? 1;
  if (scaling !== undefined && scaling !== 'none' && !(scaling === 'linear' && factor === 1)) {
    reader.refuse('rope.scaling.type', String(scaling));
  }
  const theta = reader.optional('rope.freq_base') ?? 10000;
  const ropeScaling = facts.ropeFactors && findScaling(facts.ropeFactors, theta, headDim, file);
  const bitnet = isBitnet(architecture);
  return {
    architectures: [bitnet ? 'BitNetForCausalLM' : 'LlamaForCausalLM'],
    model_type: bitnet ? 'bitnet' : 'llama',
    hidden_act: activation(metadata, architecture),
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
    ...(ropeScaling === undefined ? {} : { rope_scaling: ropeScaling }),
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

/** llama.cpp has SiLU where a `bitnet` says nothing; the other two are Microsoft's, whose models square ReLU. */
function activation(metadata: Metadata, architecture: string): string {
  const named = metadata.get(`${architecture}.hidden_activation`);
  if (typeof named === 'string') return named;
  return architecture === 'bitnet-25' || architecture === 'bitnet-b1.58' ? 'relu2' : 'silu';
}

class Reader {
  readonly #metadata: Metadata;
  readonly #architecture: string;
  readonly #file: string;

  constructor(metadata: Metadata, architecture: string, file: string) {
    this.#metadata = metadata;
    this.#architecture = architecture;
    this.#file = file;
  }

  optional(key: string): number | undefined {
    const value = this.#metadata.get(`${this.#architecture}.${key}`);
    if (value === undefined) return undefined;
    // Some keys may have a value for each layer.
    const values = Array.isArray(value) ? value : [value];
    const [first] = values;
    if (typeof first !== 'number' || values.some((other) => other !== first)) {
      throw malformed(this.#file, `${this.#architecture}.${key} is no single number`, 'one number');
    }
    return shortest(first);
  }

  number(key: string): number {
    const value = this.optional(key);
    if (value !== undefined) return value;
    throw malformed(this.#file, `it has no ${this.#architecture}.${key}`, 'a number');
  }

  size(key: string): number {
    const value = this.number(key);
    if (Number.isSafeInteger(value) && value > 0) return value;
    throw malformed(this.#file, `${this.#architecture}.${key} is ${value}`, 'an integer above 0');
  }

  refuse(key: string, what: string): never {
    throw new LutraError(
      'unsupported',
      `${this.#file}: ${this.#architecture}.${key} ${quote(what)} is not supported`,
      {
        hint: 'Supported: rotation of whole heads, without scaling or as in Llama 3.1.',
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
