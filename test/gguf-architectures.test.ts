/**
 * Models of every architecture as GGUF, written from the format's definition under llama.cpp's names and conventions:
 * lutra's logits are those of an independent float64 forward pass, and llama.cpp, where node-llama-cpp is installed,
 * goes on with the same tokens.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { load } from '../src/api/load.ts';
import { type FixtureTensor, ggufFile, value } from '../src/checkpoint/gguf/testing.ts';
import { askLlamaCpp, llamaCpp } from './support/llama-cpp.ts';
import { type Architecture, publishedForward, randomWeights, type Weights } from './support/published.ts';
import { scratchWithCache } from './support/scratch.ts';

const scratch = scratchWithCache('gguf-architectures');

const SHAPE = {
  vocab_size: 300,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 128,
  hidden_act: 'silu',
  rope_theta: 10000,
  bos_token_id: 280,
  eos_token_id: 281,
} as const;

const range = (length: number) => Array.from({ length }, (_, i) => i);

interface Case {
  readonly name: string;
  readonly architecture: Architecture;
  /** llama.cpp's name. */
  readonly stored: string;
  readonly config?: Readonly<Record<string, unknown>>;
  /** Keys besides those that all have. */
  readonly entries?: readonly (readonly [string, readonly number[]])[];
  readonly factors?: Readonly<Record<string, readonly number[]>>;
  /** Whether llama.cpp computes the same: it has no windows for Mistral and Phi 3. */
  readonly llamaCpp: boolean;
}

const SHORT = range(16).map((i) => 1 + i / 16);
const LONG = range(16).map((i) => 1 + i / 2);
/** Phi 3's, for a stretch of 128 / 64. */
const ATTENTION = Math.sqrt(1 + Math.log(2) / Math.log(64));

const CASES: readonly Case[] = [
  { name: 'llama', architecture: 'llama', stored: 'llama', llamaCpp: true },
  {
    name: 'llama with positions scaled linearly',
    architecture: 'llama',
    stored: 'llama',
    config: { rope_scaling: { type: 'linear', factor: 4 } },
    entries: [
      ['rope.scaling.type', value.text('linear')],
      ['rope.scaling.factor', value.f32(4)],
    ],
    llamaCpp: true,
  },
  {
    name: 'mistral',
    architecture: 'mistral',
    stored: 'llama',
    config: { sliding_window: 5 },
    entries: [['attention.sliding_window', value.u32(5)]],
    llamaCpp: false,
  },
  {
    name: 'qwen2',
    architecture: 'qwen2',
    stored: 'qwen2',
    // llama.cpp knows no other heads of it.
    config: { head_dim: 16, rope_theta: 1e6, tie_word_embeddings: true },
    llamaCpp: true,
  },
  {
    name: 'qwen2 with YaRN',
    architecture: 'qwen2',
    stored: 'qwen2',
    config: {
      head_dim: 16,
      rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 32 },
    },
    entries: [
      ['rope.scaling.type', value.text('yarn')],
      ['rope.scaling.factor', value.f32(4)],
      ['rope.scaling.original_context_length', value.u32(32)],
    ],
    llamaCpp: true,
  },
  {
    name: 'qwen3',
    architecture: 'qwen3',
    stored: 'qwen3',
    config: { rope_theta: 1e6, tie_word_embeddings: true },
    llamaCpp: true,
  },
  {
    name: 'phi3',
    architecture: 'phi3',
    stored: 'phi3',
    config: { sliding_window: 6 },
    entries: [['attention.sliding_window', value.u32(6)]],
    llamaCpp: false,
  },
  {
    name: 'phi3 with LongRoPE',
    architecture: 'phi3',
    stored: 'phi3',
    config: {
      original_max_position_embeddings: 64,
      rope_scaling: { type: 'longrope', short_factor: SHORT, long_factor: LONG },
    },
    entries: [
      ['rope.scaling.original_context_length', value.u32(64)],
      ['rope.scaling.attn_factor', value.f32(ATTENTION)],
    ],
    factors: { 'rope_factors_short.weight': SHORT, 'rope_factors_long.weight': LONG },
    llamaCpp: false,
  },
  {
    name: 'gemma3',
    architecture: 'gemma3_text',
    stored: 'gemma3',
    config: {
      num_hidden_layers: 6,
      hidden_activation: 'gelu_pytorch_tanh',
      rope_theta: 1e6,
      rope_local_base_freq: 10000,
      query_pre_attn_scalar: 32,
      sliding_window: 5,
      sliding_window_pattern: 6,
      tie_word_embeddings: true,
    },
    entries: [['attention.sliding_window', value.u32(5)]],
    llamaCpp: true,
  },
];

const PARTS: readonly (readonly [RegExp, string])[] = [
  [/^model\.embed_tokens/, 'token_embd'],
  [/^model\.norm/, 'output_norm'],
  [/^lm_head/, 'output'],
  [/self_attn\.(q|k|v)_proj/, 'attn_$1'],
  [/self_attn\.qkv_proj/, 'attn_qkv'],
  [/self_attn\.o_proj/, 'attn_output'],
  [/self_attn\.(q|k)_norm/, 'attn_$1_norm'],
  [/mlp\.(gate|up|down)_proj/, 'ffn_$1'],
  [/mlp\.gate_up_proj/, 'ffn_up'],
  [/input_layernorm/, 'attn_norm'],
  [/pre_feedforward_layernorm/, 'ffn_norm'],
  [/post_feedforward_layernorm/, 'post_ffw_norm'],
];

function storedName(name: string, gemma: boolean): string {
  const [, layer, rest = name] = /^model\.layers\.(\d+)\.(.*)$/.exec(name) ?? [];
  const part = PARTS.find(([pattern]) => pattern.test(rest));
  const kind = rest.split('.').at(-1)!;
  const stem =
    part === undefined ? (gemma ? 'post_attention_norm' : 'ffn_norm') : rest.replace(part[0], part[1]);
  const own = part === undefined ? stem : stem.replace(/\.(weight|bias)$/, '');
  return `${layer === undefined ? '' : `blk.${layer}.`}${own}.${kind}`;
}

/** Rows of every head from halves to neighbors in turns, as files of `llama` have q and k. */
function turned(data: Float32Array, cols: number, headDim: number): Float32Array {
  const out = new Float32Array(data.length);
  for (let row = 0; row < data.length / cols; row++) {
    const within = row % headDim;
    const from = row - within + (within % 2) * (headDim / 2) + Math.floor(within / 2);
    out.set(data.subarray(from * cols, (from + 1) * cols), row * cols);
  }
  return out;
}

function tensorsOf({ stored, factors = {} }: Case, weights: Weights): FixtureTensor[] {
  const bytes = (values: ArrayLike<number>) => new Uint8Array(Float32Array.from(values).buffer);
  const own = Object.entries(factors).map(([name, list]) => ({
    name,
    type: 0,
    sizes: [list.length],
    data: bytes(list),
  }));
  const gemma = stored === 'gemma3';
  const tensors = Array.from(weights, ([name, { rows, cols, data }]): FixtureTensor => {
    const isNorm = name.endsWith('norm.weight');
    const values =
      gemma && isNorm
        ? data.map((x) => x + 1)
        : stored === 'llama' && /(q|k)_proj/.test(name)
          ? turned(data, cols, SHAPE.head_dim)
          : data;
    return {
      name: storedName(name, gemma),
      type: 0,
      sizes: cols === 1 ? [rows] : [cols, rows],
      data: bytes(values),
    };
  });
  return [...own, ...tensors];
}

/** A vocabulary of letters and fillers: tokens are given as ids. */
function vocabulary(): (readonly [string, readonly number[]])[] {
  const tokens = range(SHAPE.vocab_size).map((id) => (id < 26 ? String.fromCharCode(97 + id) : `<t${id}>`));
  return [
    ['tokenizer.ggml.model', value.text('gpt2')],
    ['tokenizer.ggml.pre', value.text('qwen2')],
    ['tokenizer.ggml.tokens', value.texts(tokens)],
    ['tokenizer.ggml.token_type', value.i32s(tokens.map((_, id) => (id < 26 ? 1 : 4)))],
    ['tokenizer.ggml.merges', value.texts(['a b'])],
    ['tokenizer.ggml.bos_token_id', value.u32(SHAPE.bos_token_id)],
    ['tokenizer.ggml.eos_token_id', value.u32(SHAPE.eos_token_id)],
    ['tokenizer.ggml.add_bos_token', value.bool(false)],
  ];
}

function writeCase(one: Case, weights: Weights, config: Readonly<Record<string, unknown>>): string {
  const { stored, entries = [] } = one;
  const number = (key: string) => Number(config[key]);
  const own = ([key, bytes]: readonly [string, readonly number[]]) => [`${stored}.${key}`, bytes] as const;
  const file = ggufFile({
    entries: [
      ['general.architecture', value.text(stored)],
      ...(
        [
          ['context_length', value.u32(number('max_position_embeddings'))],
          ['embedding_length', value.u32(number('hidden_size'))],
          ['block_count', value.u32(number('num_hidden_layers'))],
          ['feed_forward_length', value.u32(number('intermediate_size'))],
          ['attention.head_count', value.u32(number('num_attention_heads'))],
          ['attention.head_count_kv', value.u32(number('num_key_value_heads'))],
          ['attention.key_length', value.u32(number('head_dim'))],
          ['attention.value_length', value.u32(number('head_dim'))],
          ['attention.layer_norm_rms_epsilon', value.f32(number('rms_norm_eps'))],
          ['rope.dimension_count', value.u32(number('head_dim'))],
          ['rope.freq_base', value.f32(number('rope_theta'))],
          ...entries,
        ] as const
      ).map(own),
      ...vocabulary(),
    ],
    tensors: tensorsOf(one, weights),
  });
  const path = join(scratch, `${one.name.replaceAll(' ', '-')}.gguf`);
  writeFileSync(path, file);
  return path;
}

const PROMPT = [280, 17, 4, 99, 255, 31, 8, 140, 61, 61, 7, 230, 12];

describe.each(CASES)('$name', (one) => {
  const config = { ...SHAPE, model_type: one.architecture, ...one.config };
  const weights = randomWeights(one.architecture, config);
  let path = '';

  it('has the logits of the definition', { timeout: 60_000 }, async () => {
    path = writeCase(one, weights, config);
    const published = publishedForward(one.architecture, config, weights, PROMPT).flat();
    await using model = await load(path, { target: 'wasm', cache: 'f32' });
    await using session = model.createSession();
    const logits = await session.forward(Int32Array.from(PROMPT), 'all');
    const largest = Math.max(...published.map(Math.abs));
    expect(logits.length).toBe(published.length);
    const worst = Math.max(...published.map((x, i) => Math.abs(logits[i]! - x)));
    expect(worst).toBeLessThan(2e-4 * largest);
  });

  it.skipIf(llamaCpp === undefined || !one.llamaCpp)(
    "goes on with llama.cpp's tokens",
    { timeout: 60_000 },
    () => {
      const { answers } = askLlamaCpp({ model: path, prompts: [PROMPT], maxTokens: 4, keepEnd: true });
      let tokens = [...PROMPT];
      for (const token of answers[0]!) {
        const logits = publishedForward(one.architecture, config, weights, tokens).at(-1)!;
        const best = Math.max(...logits);
        const mean = logits.reduce((a, b) => a + b) / logits.length;
        // llama.cpp keeps keys and values in f16.
        expect((best - logits[token]!) / (best - mean)).toBeLessThan(0.02);
        tokens = [...tokens, token];
      }
    },
  );
});
