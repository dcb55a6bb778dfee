import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { f32ToF16 } from '../../common/halves.ts';
import { randomUniform } from '../../common/random.ts';
import { openCheckpoint } from '../open.ts';
import { type Fixture, type FixtureTensor, ggufFile, value } from './testing.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lutra-gguf-'));
});
afterAll(() => rm(folder, { recursive: true }));

const HIDDEN = 128;
const HEADS = 4;
const uniform = randomUniform(41);
const floatsOf = (values: ArrayLike<number>) => new Uint8Array(Float32Array.from(values).buffer);
const random = (count: number) => Float32Array.from({ length: count }, () => uniform() - 0.5);

const f32 = (name: string, sizes: readonly number[], values: ArrayLike<number>): FixtureTensor => ({
  name,
  type: 0,
  sizes,
  data: floatsOf(values),
});

/** Q8_0 with the scale 0.5: a row of such a matrix has its number in every value. */
function numbered(name: string, cols: number, rows: number): FixtureTensor {
  const data: number[] = [];
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < cols / 32; block++) data.push(0x00, 0x38, ...new Array(32).fill(row));
  }
  return { name, type: 8, sizes: [cols, rows], data: Uint8Array.from(data) };
}

/** TQ2_0 needs 256 columns; I2_S any multiple of 128. Row r is -1, 0 or 1 everywhere, by r % 3. */
function i2s(name: string, cols: number, rows: number, scale: number, tail = true): FixtureTensor {
  const data = new Uint8Array((rows * cols) / 4 + (tail ? 32 : 0));
  for (let row = 0; row < rows; row++) {
    data.fill((row % 3) * 0b01010101, (row * cols) / 4, ((row + 1) * cols) / 4);
  }
  if (tail) data.set(floatsOf([scale]), (rows * cols) / 4);
  return { name, type: 36, sizes: [cols, rows], data };
}

function hyperparameters(architecture: string): (readonly [string, readonly number[]])[] {
  const own = (key: string, v: readonly number[]) => [`${architecture}.${key}`, v] as const;
  return [
    ['general.architecture', value.text(architecture)],
    own('embedding_length', value.u32(HIDDEN)),
    own('block_count', value.u32(1)),
    own('context_length', value.u32(64)),
    own('feed_forward_length', value.u32(256)),
    own('attention.head_count', value.u32(HEADS)),
    own('attention.head_count_kv', value.u32(HEADS)),
    own('attention.layer_norm_rms_epsilon', value.f32(1e-5)),
    own('rope.freq_base', value.f32(10000)),
    ['general.sampling.temp', value.f32(0.6)],
    ['tokenizer.ggml.model', value.text('gpt2')],
    ['tokenizer.ggml.pre', value.text('qwen2')],
    ['tokenizer.ggml.tokens', value.texts(['a', 'b', '<|im_end|>', '<s>'])],
    ['tokenizer.ggml.token_type', value.i32s([1, 1, 3, 3])],
    ['tokenizer.ggml.bos_token_id', value.u32(3)],
    ['tokenizer.ggml.eos_token_id', value.u32(0)],
  ];
}

const embedding = random(4 * HIDDEN);

async function put(name: string, fixture: Fixture): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, ggufFile(fixture));
  return path;
}

const problem = (path: string) =>
  openCheckpoint(path).then(
    () => 'none',
    ({ code, message, hint }) => `${code}: ${message} ${hint}`,
  );

test("a BitNet's tensors have the names and the packing of Hugging Face", async () => {
  const norm = random(HIDDEN);
  const path = await put('bitnet.gguf', {
    entries: hyperparameters('bitnet-b1.58'),
    tensors: [
      f32('token_embd.weight', [HIDDEN, 4], embedding),
      f32('output_norm.weight', [HIDDEN], norm),
      i2s('blk.0.attn_q.weight', HIDDEN, HIDDEN, 0.75),
      f32('blk.0.attn_sub_norm.weight', [HIDDEN], norm),
    ],
  });
  const checkpoint = await openCheckpoint(path);
  expect(checkpoint.config).toMatchObject({
    model_type: 'bitnet',
    hidden_act: 'relu2',
    hidden_size: HIDDEN,
    vocab_size: 4,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: true,
    bos_token_id: 3,
    // The one it names, and the one it is known by name for.
    eos_token_id: [0, 2],
    quantization_config: { quant_method: 'bitnet', linear_class: 'autobitlinear' },
  });
  expect(checkpoint.generationConfig).toMatchObject({ do_sample: true, temperature: 0.6 });
  expect([...checkpoint.textFiles.keys()].sort()).toEqual([
    'config.json',
    'generation_config.json',
    'tokenizer.json',
    'tokenizer_config.json',
  ]);
  expect([...checkpoint.tensors.keys()]).toEqual([
    'model.embed_tokens.weight',
    'model.norm.weight',
    'model.layers.0.self_attn.q_proj.weight',
    'model.layers.0.self_attn.q_proj.weight_scale',
    'model.layers.0.self_attn.attn_sub_norm.weight',
  ]);
  expect(await checkpoint.read('model.norm.weight')).toEqual(floatsOf(norm));
  expect(await checkpoint.read('model.layers.0.self_attn.q_proj.weight_scale')).toEqual(floatsOf([0.75]));
  const packed = await checkpoint.read('model.layers.0.self_attn.q_proj.weight');
  // Rows r, r + 32, r + 64, r + 96; row r is of code r % 3.
  for (let row = 0; row < 32; row++) {
    const codes = [0, 1, 2, 3].map((i) => ((row + 32 * i) % 3) << (2 * i));
    expect(packed[row * HIDDEN + 5]).toBe(codes.reduce((a, b) => a | b));
  }
  await checkpoint.close();
  await expect(checkpoint.read('model.norm.weight')).rejects.toMatchObject({ code: 'usage' });
});

test('a scale may come as a tensor, by which blocks are multiplied or which is the tail again', async () => {
  const path = await put('scales.gguf', {
    entries: hyperparameters('bitnet'),
    tensors: [
      f32('token_embd.weight', [HIDDEN, 4], embedding),
      {
        ...numbered('blk.0.attn_k.weight', HIDDEN, 4),
        data: numbered('', HIDDEN, 4).data.map((b) => (b > 1 && b < 4 ? 0 : b)),
      },
      f32('blk.0.attn_k.scale', [1], [3]),
      i2s('blk.0.attn_v.weight', HIDDEN, 4, 0, false),
      f32('blk.0.attn_v.weight_scale', [1], [0.25]),
    ],
  });
  const checkpoint = await openCheckpoint(path);
  expect(checkpoint.config).toMatchObject({ hidden_act: 'silu' });
  expect(await checkpoint.read('model.layers.0.self_attn.k_proj.weight_scale')).toEqual(floatsOf([1.5]));
  expect(await checkpoint.read('model.layers.0.self_attn.v_proj.weight_scale')).toEqual(floatsOf([0.25]));
  expect([...checkpoint.tensors.keys()].filter((name) => name.startsWith('blk'))).toEqual([]);
  await checkpoint.close();
});

test("a Llama's q and k are turned back from neighbors to halves; quantized tables are f16", async () => {
  const path = await put('llama.gguf', {
    entries: hyperparameters('llama'),
    tensors: [
      numbered('token_embd.weight', HIDDEN, 4),
      numbered('output.weight', HIDDEN, 4),
      numbered('blk.0.attn_q.weight', HIDDEN, HIDDEN),
      numbered('blk.0.attn_v.weight', HIDDEN, HIDDEN),
    ],
  });
  const checkpoint = await openCheckpoint(path);
  expect(checkpoint.config).toMatchObject({ model_type: 'llama', tie_word_embeddings: false });
  // One of the three that is of another form is no reason for floats, unless it is the one in the middle.
  expect(checkpoint.config.quantization_config).toBeUndefined();
  const rowsOf = async (name: string) => {
    const bytes = await checkpoint.read(name);
    const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
    return Array.from({ length: halves.length / HIDDEN }, (_, row) => halves[row * HIDDEN]!);
  };
  const half = (row: number) => f32ToF16(((row << 24) >> 24) * 0.5);
  expect(await rowsOf('lm_head.weight')).toEqual([0, 1, 2, 3].map(half));
  expect(await rowsOf('model.layers.0.self_attn.v_proj.weight')).toEqual(
    Array.from({ length: HIDDEN }, (_, i) => half(i)),
  );
  // A head of 32: even rows of the file are the first half.
  const head = [...Array(16).keys()].map((i) => 2 * i).concat([...Array(16).keys()].map((i) => 2 * i + 1));
  expect((await rowsOf('model.layers.0.self_attn.q_proj.weight')).slice(32, 64)).toEqual(
    head.map((i) => half(32 + i)),
  );
  await checkpoint.close();
});

describe('shards', () => {
  const tensors = [
    f32('token_embd.weight', [HIDDEN, 4], embedding),
    f32('output_norm.weight', [HIDDEN], embedding.subarray(0, HIDDEN)),
  ];

  test('are one model, whichever is named', async () => {
    await put('m-00001-of-00002.gguf', { entries: hyperparameters('llama'), tensors: tensors.slice(0, 1) });
    const second = await put('m-00002-of-00002.gguf', { tensors: tensors.slice(1) });
    const checkpoint = await openCheckpoint(second);
    expect([...checkpoint.tensors.keys()]).toEqual(['model.embed_tokens.weight', 'model.norm.weight']);
    expect(await checkpoint.read('model.norm.weight')).toEqual(tensors[1]!.data);
    await checkpoint.close();
  });

  test('must all be there, and have nothing twice', async () => {
    const first = await put('n-00001-of-00003.gguf', { entries: hyperparameters('llama'), tensors });
    expect(await problem(first)).toMatch(/^not-found: .*n-00002-of-00003\.gguf is missing/);
    await put('n-00002-of-00003.gguf', { tensors: tensors.slice(1) });
    await put('n-00003-of-00003.gguf', {});
    expect(await problem(first)).toMatch(/^invalid: .*"output_norm\.weight" is in another shard/);
  });
});

describe('is refused', () => {
  const without = (key: string) => hyperparameters('llama').filter(([name]) => name !== key);
  const withEntry = (key: string, bytes: readonly number[]) => [...without(key), [key, bytes] as const];
  const tensors = [f32('token_embd.weight', [HIDDEN, 4], embedding)];

  test.each<[string, Fixture, RegExp]>([
    ['no architecture', { entries: without('general.architecture') }, /^invalid: .*no general\.architecture/],
    ['another architecture', { entries: hyperparameters('mamba') }, /^unsupported: .*"mamba".*bitnet/],
    ['a missing size', { entries: without('llama.block_count') }, /^invalid: .*no llama\.block_count/],
    [
      'a size that is none',
      { entries: withEntry('llama.block_count', value.f32(1.5)) },
      /^invalid: .*block_count is 1\.5/,
    ],
    [
      'sizes that differ by layer',
      { entries: withEntry('llama.attention.head_count', value.i32s([4, 2])) },
      /single number/,
    ],
    [
      'rotation of a part',
      { entries: withEntry('llama.rope.dimension_count', value.u32(16)) },
      /^unsupported: .*16 of head/,
    ],
    [
      'positions scaled in a way nobody knows',
      { entries: withEntry('llama.rope.scaling.type', value.text('spiral')) },
      /^unsupported: .*spiral/,
    ],
    [
      'a type that lutra does not read',
      {
        entries: hyperparameters('llama'),
        tensors: [...tensors, { name: 'output.weight', type: 13, sizes: [256], data: new Uint8Array(176) }],
      },
      /^unsupported: .*"output\.weight" has the type Q5_K \(13\)/,
    ],
    [
      'a type that nobody knows',
      {
        entries: hyperparameters('llama'),
        tensors: [{ name: 'output.weight', type: 77, sizes: [256], data: new Uint8Array(32) }],
      },
      /^unsupported: .*the type number 77/,
    ],
    [
      'factors of positions that no Llama has',
      { entries: hyperparameters('llama'), tensors: [f32('rope_freqs.weight', [16], random(16))] },
      /^unsupported: .*rope_freqs/,
    ],
  ])('%s', async (_, fixture, message) => {
    expect(await problem(await put('refused.gguf', fixture))).toMatch(message);
  });
});

test("Llama 3.1's factors of the frequencies become its parameters", async () => {
  const factors = Array.from({ length: 16 }, (_, i) => {
    const wavelength = 2 * Math.PI * 10000 ** ((2 * i) / 32);
    if (wavelength < 8192 / 4) return 1;
    if (wavelength > 8192) return 8;
    const smooth = (8192 / wavelength - 1) / 3;
    return 1 / ((1 - smooth) / 8 + smooth);
  });
  const checkpoint = await openCheckpoint(
    await put('rope.gguf', {
      entries: hyperparameters('llama'),
      tensors: [f32('rope_freqs.weight', [16], factors), f32('token_embd.weight', [HIDDEN, 4], embedding)],
    }),
  );
  expect(checkpoint.config.rope_scaling).toEqual({
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  });
  await checkpoint.close();
});
