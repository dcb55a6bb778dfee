/**
 * Llamas with weights in groups, from GGUF: lutra's logits against those from the same weights as floats, and
 * llama.cpp's choice of tokens where node-llama-cpp is installed.
 */
import { mkdtempSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { load } from '../src/api/load.ts';
import { encodeQ6Floats, encodeQ8Floats } from '../src/checkpoint/gguf/encode.ts';
import { decodeGroups, dequantizeGroups, type GroupedType } from '../src/checkpoint/gguf/groups.ts';
import type { GgufEntry } from '../src/checkpoint/gguf/metadata.ts';
import { type GgufTensorSource, writeGguf } from '../src/checkpoint/gguf/write.ts';
import { vocabularyEntries } from '../src/checkpoint/gguf/write-vocabulary.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { llama3Vocabulary, synthTokenizer } from '../src/checkpoint/synth/tokenizer.ts';
import { writeSafetensors } from '../src/checkpoint/write.ts';
import { f16ToF32, f32ToF16 } from '../src/common/halves.ts';
import { randomUniform } from '../src/common/random.ts';
import { importModel } from '../src/models/import.ts';
import { runPasses } from '../src/passes/pipeline.ts';
import { askLlamaCpp, llamaCpp } from './support/llama-cpp.ts';
import { scratchWithCache } from './support/scratch.ts';

const scratch = scratchWithCache('gguf-llama');

const [HIDDEN, FEED, LAYERS, HEADS, KV_HEADS, VOCAB] = [256, 512, 2, 4, 2, 300];
const HEAD = HIDDEN / HEADS;

const halfBytes = (value: number) => {
  const bits = f32ToF16(value);
  return [bits & 255, bits >> 8];
};
const nearest = (value: number, most: number) => Math.min(Math.max(Math.round(value), 0), most);

/** Blocks of 32: a scale by which the largest is -8. */
function q4(values: Float32Array): Uint8Array {
  const bytes: number[] = [];
  for (let at = 0; at < values.length; at += 32) {
    const block = values.subarray(at, at + 32);
    const peak = block.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
    const d = f16ToF32(f32ToF16(peak / -8));
    const codes = Array.from(block, (value) => nearest(value / d + 8, 15));
    bytes.push(...halfBytes(d));
    for (let j = 0; j < 16; j++) bytes.push(codes[j]! | (codes[16 + j]! << 4));
  }
  return Uint8Array.from(bytes);
}

/** Blocks of 256: 6-bit scales and minima of eight groups, in units of d and dmin. */
function q4k(values: Float32Array): Uint8Array {
  const bytes: number[] = [];
  for (let at = 0; at < values.length; at += 256) {
    const groups = Array.from({ length: 8 }, (_, g) => values.subarray(at + 32 * g, at + 32 * g + 32));
    const lows = groups.map((group) => Math.max(0, -group.reduce((a, b) => Math.min(a, b))));
    const steps = groups.map((group, g) => (group.reduce((a, b) => Math.max(a, b)) + lows[g]!) / 15);
    const d = f16ToF32(f32ToF16(Math.max(...steps) / 63));
    const dmin = f16ToF32(f32ToF16(Math.max(...lows) / 63));
    const sc = steps.map((step) => nearest(step / d, 63));
    const mn = lows.map((low) => nearest(low / dmin, 63));
    bytes.push(...halfBytes(d), ...halfBytes(dmin));
    for (let j = 0; j < 4; j++) bytes.push(sc[j]! | ((sc[4 + j]! >> 4) << 6));
    for (let j = 0; j < 4; j++) bytes.push(mn[j]! | ((mn[4 + j]! >> 4) << 6));
    for (let j = 0; j < 4; j++) bytes.push((sc[4 + j]! & 15) | ((mn[4 + j]! & 15) << 4));
    const codes = groups.map((group, g) =>
      Array.from(group, (value) => nearest((value + dmin * mn[g]!) / (d * sc[g]!), 15)),
    );
    for (let g = 0; g < 8; g += 2)
      for (let l = 0; l < 32; l++) bytes.push(codes[g]![l]! | (codes[g + 1]![l]! << 4));
  }
  return Uint8Array.from(bytes);
}

/** Blocks of 256: 4-bit scales and minima of sixteen groups, in units of d and dmin; 2 bits a value. */
function q2k(values: Float32Array): Uint8Array {
  const bytes: number[] = [];
  for (let at = 0; at < values.length; at += 256) {
    const groups = Array.from({ length: 16 }, (_, g) => values.subarray(at + 16 * g, at + 16 * g + 16));
    const lows = groups.map((group) => Math.max(0, -group.reduce((a, b) => Math.min(a, b))));
    const steps = groups.map((group, g) => (group.reduce((a, b) => Math.max(a, b)) + lows[g]!) / 3);
    const d = f16ToF32(f32ToF16(Math.max(...steps) / 15));
    const dmin = f16ToF32(f32ToF16(Math.max(...lows) / 15));
    const sc = steps.map((step) => Math.max(1, nearest(step / d, 15)));
    const mn = lows.map((low) => nearest(low / dmin, 15));
    const codes = groups.flatMap((group, g) =>
      Array.from(group, (value) => nearest((value + dmin * mn[g]!) / (d * sc[g]!), 3)),
    );
    for (let g = 0; g < 16; g++) bytes.push(sc[g]! | (mn[g]! << 4));
    for (let byte = 0; byte < 64; byte++) {
      const first = 128 * (byte >> 5) + (byte & 31);
      bytes.push([0, 1, 2, 3].map((s) => codes[first + 32 * s]! << (2 * s)).reduce((a, b) => a | b));
    }
    bytes.push(...halfBytes(d), ...halfBytes(dmin));
  }
  return Uint8Array.from(bytes);
}

/** Blocks of 128: the sign, and the mean magnitude. */
function q1(values: Float32Array): Uint8Array {
  const bytes: number[] = [];
  for (let at = 0; at < values.length; at += 128) {
    const block = values.subarray(at, at + 128);
    bytes.push(...halfBytes(block.reduce((sum, value) => sum + Math.abs(value), 0) / 128));
    for (let i = 0; i < 128; i += 8) {
      bytes.push(
        Array.from({ length: 8 }, (_, j) => (block[i + j]! > 0 ? 1 << j : 0)).reduce((a, b) => a | b),
      );
    }
  }
  return Uint8Array.from(bytes);
}

/** Blocks of 64: codes 0 to 3 for -d to 2 d. */
function q2(values: Float32Array): Uint8Array {
  const bytes: number[] = [];
  for (let at = 0; at < values.length; at += 64) {
    const block = values.subarray(at, at + 64);
    const d = f16ToF32(f32ToF16(block.reduce((sum, value) => sum + Math.abs(value), 0) / 64));
    const codes = Array.from(block, (value) => nearest(value / d + 1, 3));
    bytes.push(...halfBytes(d));
    for (let i = 0; i < 64; i += 4)
      bytes.push(codes[i]! | (codes[i + 1]! << 2) | (codes[i + 2]! << 4) | (codes[i + 3]! << 6));
  }
  return Uint8Array.from(bytes);
}

const ENCODERS = {
  Q4_0: q4,
  Q8_0: encodeQ8Floats,
  Q2_K: q2k,
  Q4_K: q4k,
  Q6_K: encodeQ6Floats,
  Q1_0: q1,
  Q2_0: q2,
} as const;
type WeightType = keyof typeof ENCODERS & GroupedType;

/** Rows of a head from halves, as Hugging Face has them, to neighbors in turns. */
function interleave(values: Float32Array, heads: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < HEAD; i++) {
      const from = head * HEAD + (i % 2) * (HEAD / 2) + Math.floor(i / 2);
      out.set(values.subarray(from * HIDDEN, (from + 1) * HIDDEN), (head * HEAD + i) * HIDDEN);
    }
  }
  return out;
}

function deinterleave(values: Float32Array, heads: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < HEAD; i++) {
      const to = head * HEAD + (i % 2) * (HEAD / 2) + Math.floor(i / 2);
      out.set(values.subarray((head * HEAD + i) * HIDDEN, (head * HEAD + i + 1) * HIDDEN), to * HIDDEN);
    }
  }
  return out;
}

const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

const definition = synthTokenizer(llama3Vocabulary(VOCAB, 280));
const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  hidden_size: HIDDEN,
  intermediate_size: FEED,
  num_hidden_layers: LAYERS,
  num_attention_heads: HEADS,
  num_key_value_heads: KV_HEADS,
  vocab_size: VOCAB,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  bos_token_id: 280,
  eos_token_id: 281,
};

/** The same random model as GGUF, and as safetensors with the values of its blocks. */
async function makePair(typeOf: (part: string) => WeightType) {
  const uniform = randomUniform(61);
  const random = (count: number, range: number) =>
    Float32Array.from({ length: count }, () => (2 * uniform() - 1) * range);
  const gguf: GgufTensorSource[] = [];
  const plain: { name: string; dtype: 'f32'; shape: number[]; chunks: () => Uint8Array[] }[] = [];
  const floats = (stored: string, named: string, shape: number[], values: Float32Array) => {
    gguf.push({
      name: stored,
      type: 'F32',
      shape,
      bytes: values.byteLength,
      chunks: () => [bytesOf(values)],
    });
    plain.push({ name: named, dtype: 'f32', shape, chunks: () => [bytesOf(values)] });
  };
  const matrix = (stored: string, named: string, rows: number, cols: number) => {
    const part = stored.split('.').at(-2)!;
    const type = typeOf(part);
    const heads = part === 'attn_q' ? HEADS : part === 'attn_k' ? KV_HEADS : 0;
    const values = random(rows * cols, 1.5 / Math.sqrt(cols));
    const data = ENCODERS[type](heads === 0 ? values : interleave(values, heads));
    gguf.push({ name: stored, type, shape: [rows, cols], bytes: data.length, chunks: () => [data] });
    const rounded = dequantizeGroups(decodeGroups(type, data));
    const back = heads === 0 ? rounded : deinterleave(rounded, heads);
    plain.push({ name: named, dtype: 'f32', shape: [rows, cols], chunks: () => [bytesOf(back)] });
  };
  const norm = () => random(HIDDEN, 0.5).map((value) => 1 + value);
  floats('token_embd.weight', 'model.embed_tokens.weight', [VOCAB, HIDDEN], random(VOCAB * HIDDEN, 1));
  floats('output_norm.weight', 'model.norm.weight', [HIDDEN], norm());
  matrix('output.weight', 'lm_head.weight', VOCAB, HIDDEN);
  for (let layer = 0; layer < LAYERS; layer++) {
    const [from, to] = [`blk.${layer}`, `model.layers.${layer}`];
    floats(`${from}.attn_norm.weight`, `${to}.input_layernorm.weight`, [HIDDEN], norm());
    floats(`${from}.ffn_norm.weight`, `${to}.post_attention_layernorm.weight`, [HIDDEN], norm());
    matrix(`${from}.attn_q.weight`, `${to}.self_attn.q_proj.weight`, HIDDEN, HIDDEN);
    matrix(`${from}.attn_k.weight`, `${to}.self_attn.k_proj.weight`, KV_HEADS * HEAD, HIDDEN);
    matrix(`${from}.attn_v.weight`, `${to}.self_attn.v_proj.weight`, KV_HEADS * HEAD, HIDDEN);
    matrix(`${from}.attn_output.weight`, `${to}.self_attn.o_proj.weight`, HIDDEN, HIDDEN);
    matrix(`${from}.ffn_gate.weight`, `${to}.mlp.gate_proj.weight`, FEED, HIDDEN);
    matrix(`${from}.ffn_up.weight`, `${to}.mlp.up_proj.weight`, FEED, HIDDEN);
    matrix(`${from}.ffn_down.weight`, `${to}.mlp.down_proj.weight`, HIDDEN, FEED);
  }
  const folder = mkdtempSync(join(scratch, 'pair-'));
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(definition));
  await writeSafetensors(folder, plain);

  const u32 = (value: number): GgufEntry => ({ type: 'u32', value });
  const checkpoint = await openCheckpoint(folder);
  const entries: (readonly [string, GgufEntry])[] = [
    ['general.architecture', { type: 'string', value: 'llama' }],
    ['llama.context_length', u32(128)],
    ['llama.embedding_length', u32(HIDDEN)],
    ['llama.block_count', u32(LAYERS)],
    ['llama.feed_forward_length', u32(FEED)],
    ['llama.attention.head_count', u32(HEADS)],
    ['llama.attention.head_count_kv', u32(KV_HEADS)],
    ['llama.attention.layer_norm_rms_epsilon', { type: 'f32', value: 1e-5 }],
    ['llama.rope.dimension_count', u32(HEAD)],
    ['llama.rope.freq_base', { type: 'f32', value: 10000 }],
    ...vocabularyEntries(checkpoint, VOCAB),
  ];
  await checkpoint.close();
  const path = join(folder, 'model.gguf');
  await writeGguf(path, entries, gguf);
  return { folder, path };
}

const prompt = Int32Array.of(280, 17, 4, 99, 255, 31, 8, 140, 61, 61, 7);

async function logitsOf(source: string, target = 'wasm'): Promise<Float32Array> {
  await using model = await load(source, { target });
  await using session = model.createSession();
  return await session.forward(prompt, 'all');
}

const PARTS: Readonly<Record<string, WeightType>> = {
  attn_output: 'Q8_0',
  output: 'Q8_0',
  ffn_gate: 'Q1_0',
  ffn_up: 'Q1_0',
  ffn_down: 'Q2_0',
};

const FORMS: readonly (readonly [string, (part: string) => WeightType])[] = [
  ['q4_0, q8_0, q1_0 and q2_0', (part) => PARTS[part] ?? 'Q4_0'],
  // As llama.cpp's Q4_K_M has it: better types where it matters.
  ['q4_k_m', (part) => (['attn_v', 'ffn_down', 'output'].includes(part) ? 'Q6_K' : 'Q4_K')],
  ['q2_k', (part) => (part === 'attn_v' || part === 'attn_output' ? 'Q4_K' : 'Q2_K')],
];

const pairs = new Map<string, { readonly folder: string; readonly path: string }>();

describe.each(FORMS)('a Llama in %s', (name, typeOf) => {
  it('has the logits of its values as floats, but for the rounding of activations', {
    timeout: 60_000,
  }, async () => {
    const pair = await makePair(typeOf);
    pairs.set(name, pair);
    const { config: read, close } = await openCheckpoint(pair.path);
    await close();
    // All seven projections of a layer keep their codes, and the output head does.
    const { matrices } = read.quantization_config as { readonly matrices: object };
    expect(Object.keys(matrices)).toHaveLength(7 * LAYERS + 1);
    const [found, expected] = [await logitsOf(pair.path), await logitsOf(pair.folder)];
    let [error, energy] = [0, 0];
    for (let i = 0; i < expected.length; i++) {
      error += (found[i]! - expected[i]!) ** 2;
      energy += expected[i]! ** 2;
    }
    expect(expected).toHaveLength(prompt.length * VOCAB);
    // 15 bits a product: some 1e-9 of the energy each.
    expect(error / energy).toBeLessThan(1e-6);
  });
});

it('reads a head of integers as it is stored, or leaves it out', async () => {
  const { path } = pairs.get('q4_k_m')!;
  const checkpoint = await openCheckpoint(path);
  const { graph, info } = importModel(checkpoint);
  expect(graph.nodes.at(-1)!.op).toBe('lowbit.matmul.blocks');
  // The embedding is floats.
  expect(info.headDType).toBe('f32');
  const [output] = runPasses(graph, { head: 'none' }).outputs;
  expect(graph.nodes.find(({ outputs }) => outputs[0]!.name === output)!.op).toBe('rmsNorm');
  for (const head of ['int8', 'exact'] as const) {
    expect(() => runPasses(graph, { head })).toThrow(`is integers in its file: no head ${head}`);
  }
  await checkpoint.close();
});

describe.skipIf(llamaCpp === undefined)('llama.cpp', () => {
  it.each(FORMS.map(([name]) => name))(
    'chooses a token that is near the best for lutra: %s',
    async (name) => {
      const { path } = pairs.get(name)!;
      const { answers } = askLlamaCpp({ model: path, prompts: [[...prompt]], maxTokens: 1, keepEnd: true });
      const logits = (await logitsOf(path)).subarray(-VOCAB);
      const best = logits.reduce((a, b) => Math.max(a, b));
      const mean = logits.reduce((a, b) => a + b) / VOCAB;
      expect((best - logits[answers[0]![0]!]!) / (best - mean)).toBeLessThan(0.1);
    },
  );
});
