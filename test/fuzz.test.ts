/**
 * Whatever a file says, it is read or refused: no other error, no loop without end, no memory without bound. Every
 * parser gets mutated inputs from a fixed seed. A long run: npm run fuzz -- --runs 1000000 [--seed 7] [--only gguf]
 */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { ARTIFACT_VERSION, parseManifest } from '../src/artifact/manifest.ts';
import type { Checkpoint, TensorInfo } from '../src/checkpoint/checkpoint.ts';
import { parseGgufHeader } from '../src/checkpoint/gguf/header.ts';
import { tensorRole } from '../src/checkpoint/gguf/names.ts';
import { architectureOf, generationConfig, modelConfig } from '../src/checkpoint/gguf/read-config.ts';
import { vocabularyFiles } from '../src/checkpoint/gguf/read-vocabulary.ts';
import { ggufFile, value } from '../src/checkpoint/gguf/testing.ts';
import { headerLength, PREFIX_BYTES, parseHeader } from '../src/checkpoint/safetensors.ts';
import { parseWeightIndex } from '../src/checkpoint/weight-index.ts';
import { type ErrorCode, LutraError } from '../src/common/errors.ts';
import { importModel } from '../src/models/import.ts';
import { createTokenizer } from '../src/text/tokenizer.ts';
import { type Chance, chance, mutateBytes, mutateJson, mutateJsonText } from './support/mutate.ts';

const RUNS = Number(process.env.LUTRA_FUZZ_RUNS ?? 2000);
const SEED = Number(process.env.LUTRA_FUZZ_SEED ?? 51);
/** One input takes microseconds; this is a loop without end, on the slowest of machines. */
const HANG_MS = 20_000;
const MEMORY = 768 * 1024 * 1024;

interface Parser {
  readonly name: string;
  /** The errors that damaged input may give. */
  readonly codes: readonly ErrorCode[];
  /** Makes an input and parses it. */
  readonly run: (random: Chance) => void;
}

const IMPORT_CODES = ['invalid', 'unsupported', 'not-found'] as const;

// ---- safetensors

const SAFETENSORS_HEADER = {
  __metadata__: { format: 'pt', by: 'hand' },
  'model.norm.weight': { dtype: 'F32', shape: [4], data_offsets: [0, 16] },
  'a.qweight': { dtype: 'I32', shape: [2, 2], data_offsets: [16, 32] },
  'a.scales': { dtype: 'F16', shape: [1, 2], data_offsets: [32, 36] },
};

function safetensors(header: string): Uint8Array {
  const json = new TextEncoder().encode(header);
  const file = new Uint8Array(8 + json.length + 36);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(json, 8);
  return file;
}

const SAFETENSORS = safetensors(JSON.stringify(SAFETENSORS_HEADER));

/** Damaged bytes, or damaged JSON of the right length. */
function damagedSafetensors(random: Chance): Uint8Array {
  if (random.below(2) === 0) return mutateBytes(SAFETENSORS, SAFETENSORS.length - 36, random);
  return safetensors(mutateJsonText(SAFETENSORS_HEADER, random));
}

function readSafetensors(random: Chance): void {
  const file = damagedSafetensors(random);
  const length = headerLength(file.subarray(0, PREFIX_BYTES), file.length, 'x.safetensors');
  const entries = parseHeader(
    file.subarray(PREFIX_BYTES, PREFIX_BYTES + length),
    file.length,
    'x.safetensors',
  );
  const outside = entries.find(({ begin, end }) => begin > end || begin < PREFIX_BYTES || end > file.length);
  if (outside !== undefined) throw new Error(`tensor ${outside.name} is outside the file`);
}

const SHARD = 'model-00001-of-00002.safetensors';
const INDEX = { metadata: { total_size: 12 }, weight_map: { a: SHARD, b: SHARD.replace('1-of', '2-of') } };

function readIndex(random: Chance): void {
  const shards = parseWeightIndex(mutateJsonText(INDEX, random), 'index.json');
  for (const file of shards.values())
    if (/[\\/:]|^\./.test(file)) throw new Error(`${file} leaves the folder`);
}

// ---- GGUF

const TENSOR_TYPES = [0, 8, 14, 34, 36, 38, 39, 42];
const TENSOR_BYTES = [4096, 1088, 840, 216, 288, 288, 544, 288];

function ggufSeed(
  architecture: string,
  kind: 'gpt2' | 'llama',
  more: readonly (readonly [string, readonly number[]])[],
) {
  const sizes = ['embedding_length', 'block_count', 'context_length', 'feed_forward_length'];
  const own = ([key, bytes]: readonly [string, readonly number[]]) =>
    [`${architecture}.${key}`, bytes] as const;
  const file = ggufFile({
    entries: [
      ['general.architecture', value.text(architecture)],
      ...sizes.map((key) => own([key, value.u32(64)])),
      own(['attention.head_count', value.u32(4)]),
      own(['attention.layer_norm_rms_epsilon', value.f32(1e-5)]),
      ...more.map(own),
      ['general.alignment', value.u32(32)],
      ['general.sampling.temp', value.f32(0.6)],
      ['tokenizer.ggml.model', value.text(kind)],
      ['tokenizer.ggml.pre', value.text('gpt-2')],
      ['tokenizer.ggml.tokens', value.texts(['<unk>', '<s>', '▁', 'a', 'b', 'ab', '▁ab'])],
      ['tokenizer.ggml.token_type', value.i32s([2, 3, 1, 1, 1, 1, 1])],
      ['tokenizer.ggml.scores', value.f32s([0, 0, -3, -3, -3, -1, -2])],
      ['tokenizer.ggml.merges', value.texts(['a b', '▁ ab'])],
      ['tokenizer.ggml.bos_token_id', value.u32(1)],
      ['tokenizer.ggml.add_bos_token', value.bool(true)],
      ['tokenizer.chat_template', value.text('{{ messages }}')],
    ],
    tensors: TENSOR_TYPES.map((type, i) => ({
      name: `blk.${i}.attn_q.weight`,
      type,
      sizes: [256, 4],
      data: new Uint8Array(TENSOR_BYTES[i]!),
    })),
  });
  return { file, end: parseGgufHeader(file, file.length, 'x')!.tensors[0]!.begin };
}

const WINDOW = ['attention.sliding_window', value.u32(16)] as const;
const GGUF_SEEDS = [
  ggufSeed('llama', 'gpt2', [WINDOW]),
  ggufSeed('bitnet', 'llama', []),
  ggufSeed('gemma3', 'llama', [WINDOW, ['attention.sliding_window_pattern', value.i32s([1, 1, 0])]]),
  ggufSeed('qwen2', 'gpt2', [
    ['rope.scaling.type', value.text('yarn')],
    ['rope.scaling.factor', value.f32(4)],
  ]),
  ggufSeed('phi3', 'gpt2', [['rope.scaling.attn_factor', value.f32(1.2)]]),
];

function readGguf(random: Chance): void {
  const { file: seed, end } = random.pick(GGUF_SEEDS);
  const file = mutateBytes(seed, end, random);
  const header = parseGgufHeader(file, file.length, 'x.gguf');
  if (header === undefined) return;
  const outside = header.tensors.find((tensor) => tensor.begin > tensor.end || tensor.end > file.length);
  if (outside !== undefined) throw new Error(`tensor ${outside.name} is outside the file`);
  const architecture = architectureOf(header.metadata, 'x.gguf');
  for (const { name } of header.tensors) tensorRole(name, architecture);
  const config = modelConfig(
    header.metadata,
    { vocab: 7, tied: true, ternary: random.below(2) === 0 },
    'x.gguf',
  );
  generationConfig(header.metadata);
  vocabularyFiles(header.metadata, 'x.gguf');
  try {
    importAll({ config, tensors: [] });
  } catch (error) {
    // Without tensors, this is as far as it goes.
    if (!(error instanceof LutraError) || error.code !== 'not-found') throw error;
  }
}

// ---- configurations and shapes

interface Described {
  readonly config: unknown;
  readonly quantize?: unknown;
  readonly tensors: readonly TensorInfo[];
}

function importAll({ config, quantize, tensors }: Described): void {
  const checkpoint: Checkpoint = {
    path: 'x',
    config: config as Checkpoint['config'],
    generationConfig: {},
    textFiles: new Map(quantize === undefined ? [] : [['quantize_config.json', JSON.stringify(quantize)]]),
    tensors: new Map(tensors.map((info) => [info.name, info])),
    read: () => Promise.reject(new Error('headers only')),
    close: () => Promise.resolve(),
  };
  importModel(checkpoint, {});
}

const BASE = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  hidden_size: 128,
  intermediate_size: 256,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  vocab_size: 100,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: [2],
};

const PROJECTIONS: readonly (readonly [string, number, number])[] = [
  ['self_attn.q_proj', 128, 128],
  ['self_attn.k_proj', 64, 128],
  ['self_attn.v_proj', 64, 128],
  ['self_attn.o_proj', 128, 128],
  ['mlp.gate_proj', 256, 128],
  ['mlp.up_proj', 256, 128],
  ['mlp.down_proj', 128, 256],
];

const info = (name: string, dtype: TensorInfo['dtype'], shape: readonly number[]): TensorInfo => ({
  name,
  dtype,
  shape,
  bytes: 0,
});

const TABLES = [
  info('model.embed_tokens.weight', 'f16', [100, 128]),
  info('model.norm.weight', 'f16', [128]),
  info('model.layers.0.input_layernorm.weight', 'f16', [128]),
  info('model.layers.0.post_attention_layernorm.weight', 'f16', [128]),
];

const layerTensors = (parts: (name: string, rows: number, cols: number) => readonly TensorInfo[]) => [
  ...TABLES,
  ...PROJECTIONS.flatMap(([name, rows, cols]) => parts(`model.layers.0.${name}`, rows, cols)),
];

const gptqTensors = layerTensors((name, rows, cols) => [
  info(`${name}.qweight`, 'i32', [cols / 8, rows]),
  info(`${name}.qzeros`, 'i32', [cols / 64, rows / 8]),
  info(`${name}.scales`, 'f16', [cols / 64, rows]),
  info(`${name}.g_idx`, 'i32', [cols]),
]);
const awqTensors = layerTensors((name, rows, cols) => [
  info(`${name}.qweight`, 'i32', [cols, rows / 8]),
  info(`${name}.qzeros`, 'i32', [cols / 64, rows / 8]),
  info(`${name}.scales`, 'f16', [cols / 64, rows]),
]);
const floatTensors = layerTensors((name, rows, cols) => [info(`${name}.weight`, 'bf16', [rows, cols])]);
const GPTQ = {
  quant_method: 'gptq',
  bits: 4,
  group_size: 64,
  sym: false,
  desc_act: true,
  checkpoint_format: 'gptq',
};
const AWQ = { quant_method: 'awq', bits: 4, group_size: 64, zero_point: true, version: 'gemm' };

const QUANTIZED: readonly Described[] = [
  { config: { ...BASE, quantization_config: GPTQ }, tensors: gptqTensors },
  { config: BASE, quantize: { bits: 4, group_size: 64, sym: true, desc_act: false }, tensors: gptqTensors },
  { config: { ...BASE, quantization_config: AWQ }, tensors: awqTensors },
];

const yarn = { type: 'yarn', factor: 4, original_max_position_embeddings: 32 };
const long = { type: 'longrope', short_factor: Array(16).fill(1), long_factor: Array(16).fill(2) };
const llama3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 32,
};
const FLOATS: readonly Described[] = [
  { config: { ...BASE, rope_scaling: llama3 }, tensors: floatTensors },
  { config: { ...BASE, model_type: 'mistral', sliding_window: 16 }, tensors: floatTensors },
  {
    config: {
      ...BASE,
      model_type: 'qwen2',
      rope_scaling: yarn,
      use_sliding_window: true,
      max_window_layers: 1,
    },
    tensors: floatTensors,
  },
  { config: { ...BASE, model_type: 'qwen3', layer_types: ['full_attention'] }, tensors: floatTensors },
  { config: { ...BASE, model_type: 'phi3', rope_scaling: long, sliding_window: 9 }, tensors: floatTensors },
  {
    config: { ...BASE, model_type: 'gemma3_text', hidden_activation: 'gelu_pytorch_tanh', sliding_window: 9 },
    tensors: floatTensors,
  },
  {
    config: { ...BASE, quantization_config: { quant_method: 'bitnet', linear_class: 'autobitlinear' } },
    tensors: layerTensors((name, rows, cols) => [
      info(`${name}.weight`, 'u8', [rows / 4, cols]),
      info(`${name}.weight_scale`, 'bf16', [1]),
    ]),
  },
];

/** Damages the configuration, or shapes and dtypes of tensors; those of a file have sizes of at least 0. */
function mutateDescribed(seed: Described, random: Chance): Described {
  if (random.below(3) > 0) {
    const { config, quantize } = mutateJson(
      { config: seed.config, quantize: seed.quantize },
      random,
    ) as Described;
    return { ...seed, config: (config ?? {}) as Checkpoint['config'], quantize };
  }
  const tensors = [...seed.tensors];
  const at = random.below(tensors.length);
  const tensor = tensors[at]!;
  const shape = tensor.shape.map((size) =>
    random.below(2) === 0 ? size : random.pick([0, 1, 3, size * 2, 2 ** 46]),
  );
  tensors[at] = {
    ...tensor,
    name:
      random.below(4) === 0
        ? random.pick(['', '__proto__', 'model.layers.0.x', 'lm_head.weight'])
        : tensor.name,
    dtype: random.below(4) === 0 ? random.pick(['i8', 'f32', 'u8'] as const) : tensor.dtype,
    shape: random.below(4) === 0 ? shape.slice(1) : shape,
  };
  return { ...seed, tensors };
}

// ---- tokenizers and artifacts

const TOKENIZER = {
  version: '1.0',
  added_tokens: [{ id: 6, content: '<s>', special: true, normalized: false, lstrip: false, rstrip: false }],
  normalizer: { type: 'Sequence', normalizers: [{ type: 'Lowercase' }, { type: 'NFC' }] },
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: '\\p{N}{1,3}| ?\\p{L}+' }, behavior: 'Isolated', invert: false },
      { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
    ],
  },
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: { '<s>': { id: '<s>', ids: [6], tokens: ['<s>'] } },
  },
  decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: 'BPE',
    unk_token: null,
    fuse_unk: false,
    byte_fallback: false,
    vocab: { a: 0, b: 1, ab: 2, c: 3, abc: 4, Ġ: 5 },
    merges: ['a b', 'ab c'],
  },
};
const TOKENIZER_CONFIG = {
  bos_token: '<s>',
  eos_token: { content: '<s>' },
  clean_up_tokenization_spaces: false,
};

function readTokenizer(random: Chance): void {
  const files = [
    ['tokenizer.json', TOKENIZER],
    ['tokenizer_config.json', TOKENIZER_CONFIG],
  ] as const;
  const damaged = random.below(3) > 0 ? 0 : 1;
  const textFiles = new Map<string, string>(
    files.map(([name, seed], i) => [
      name,
      i === damaged ? mutateJsonText(seed, random) : JSON.stringify(seed),
    ]),
  );
  const tokenizer = createTokenizer({ path: 'x', textFiles, config: {}, generationConfig: {} });
  tokenizer.decode([...tokenizer.encode('abc cab <s>')]);
}

const MANIFEST = {
  format: 'lutra-artifact',
  version: ARTIFACT_VERSION,
  compiler: '0.1.0',
  name: 'x',
  model: { layers: 2 },
  needs: { arenaBytes: 64, cacheBytes: 64, vocab: 16, logitsStride: 16, scans: false },
  context: 16,
  target: 'wasm',
  code: [{ file: 'code/model.wasm', machines: ['wasm:baseline'], platform: 'linux-x64' }],
  files: {
    'weights.bin': { bytes: 64, sha256: 'a'.repeat(64) },
    'code/model.wasm': { bytes: 2, sha256: 'b'.repeat(64) },
  },
};

function readManifest(random: Chance): void {
  const { files, code } = parseManifest(mutateJsonText(MANIFEST, random), 'manifest.json');
  for (const file of [...Object.keys(files), ...code.map((entry) => entry.file)]) {
    if (/^\/|(^|[\\/])\.\.([\\/]|$)/.test(file)) throw new Error(`${file} is outside the artifact`);
  }
}

const PARSERS: readonly Parser[] = [
  { name: 'safetensors', codes: ['invalid'], run: readSafetensors },
  { name: 'index', codes: ['invalid'], run: readIndex },
  { name: 'gguf', codes: IMPORT_CODES, run: readGguf },
  {
    name: 'gptq-awq',
    codes: IMPORT_CODES,
    run: (random) => importAll(mutateDescribed(random.pick(QUANTIZED), random)),
  },
  {
    name: 'config',
    codes: IMPORT_CODES,
    run: (random) => importAll(mutateDescribed(random.pick(FLOATS), random)),
  },
  { name: 'tokenizer', codes: ['invalid', 'unsupported'], run: readTokenizer },
  { name: 'manifest', codes: ['invalid', 'unsupported'], run: readManifest },
];

const only = process.env.LUTRA_FUZZ_ONLY;

// The library of tokenizers comments on what it does not know.
const warn = vi.spyOn(console, 'warn');
const { stackTraceLimit } = Error;
beforeAll(() => {
  warn.mockImplementation(() => undefined);
  // Where errors were made takes longer to find out than all the rest.
  Error.stackTraceLimit = 0;
});
afterAll(() => {
  warn.mockRestore();
  Error.stackTraceLimit = stackTraceLimit;
});

describe.each(PARSERS.filter(({ name }) => only === undefined || name === only))(
  '$name',
  ({ name, codes, run }) => {
    test(`${RUNS} mutated inputs`, { timeout: 12 * 3_600_000 }, () => {
      const outcomes = { read: 0, refused: 0 };
      const memory = process.memoryUsage().rss;
      let slowest = 0;
      for (let at = 0; at < RUNS; at++) {
        // Each input has a seed of its own, so that one can be tried again.
        const seed = SEED * 2 ** 24 + at;
        const start = performance.now();
        try {
          run(chance(seed));
          outcomes.read++;
        } catch (error) {
          if (!(error instanceof LutraError) || !codes.includes(error.code)) {
            throw new Error(`${name}, input ${seed}: ${error}`, { cause: error });
          }
          outcomes.refused++;
        }
        const took = performance.now() - start;
        slowest = Math.max(slowest, took);
        if (took > HANG_MS) throw new Error(`${name}, input ${seed}: took ${took} ms`);
      }
      if (process.env.LUTRA_FUZZ_RUNS !== undefined) {
        const grown = (process.memoryUsage().rss - memory) / 2 ** 20;
        console.log(
          `${name}: ${JSON.stringify(outcomes)}, slowest ${slowest.toFixed(1)} ms, ${grown.toFixed(0)} MiB`,
        );
      }
      // Both happen: the mutations are neither harmless nor hopeless.
      expect(outcomes.read).toBeGreaterThan(RUNS / 100);
      expect(outcomes.refused).toBeGreaterThan(RUNS / 10);
      expect(process.memoryUsage().rss - memory).toBeLessThan(MEMORY);
    });
  },
);
