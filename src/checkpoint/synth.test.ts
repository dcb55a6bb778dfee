import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { Tokenizer } from '@huggingface/tokenizers';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { bf16ToF32, widenHalves } from '../common/halves.ts';
import { randomUniform } from '../common/random.ts';
import type { Checkpoint } from './checkpoint.ts';
import { openCheckpoint } from './open.ts';
import { SYNTH_PRESETS } from './synth/presets.ts';
import { synthesizeConfig } from './synth.ts';

const SIZES = {
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
};
const LLAMA3_IDS = { vocab_size: 320, bos_token_id: 300, eos_token_id: 301 };

const BITNET = { ...SYNTH_PRESETS['bitnet-2b-4t'], ...SIZES, ...LLAMA3_IDS };
const BITNET_BF16 = { ...SYNTH_PRESETS['bitnet-2b-4t-bf16'], ...SIZES, ...LLAMA3_IDS };
const ONE_BIT_LLM = { ...SYNTH_PRESETS['bitnet-3b'], ...SIZES, vocab_size: 302, pad_token_id: 300 };
const LLAMA = { ...SYNTH_PRESETS['llama3-8b-1.58'], ...SIZES, ...LLAMA3_IDS, eos_token_id: 309 };

const GPTQ = {
  ...SYNTH_PRESETS['llama2-7b-w2'],
  ...SIZES,
  hidden_size: 128,
  intermediate_size: 256,
  vocab_size: 302,
};

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lutra-synth-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function make(config: Record<string, unknown>, seed = 1): Promise<Checkpoint> {
  await synthesizeConfig(config, folder, { seed });
  return openCheckpoint(folder);
}

/** "dtype shape" of each tensor that is not of layer 1. */
function describeTensors(checkpoint: Checkpoint): Record<string, string> {
  const infos = [...checkpoint.tensors.values()].filter(({ name }) => !name.includes('.layers.1.'));
  return Object.fromEntries(
    infos.map(({ name, dtype, shape }) => [name.replace('model.layers.0.', ''), `${dtype} [${shape}]`]),
  );
}

async function halves(checkpoint: Checkpoint, name: string): Promise<Float32Array> {
  const { dtype } = checkpoint.tensors.get(name)!;
  const bytes = await checkpoint.read(name);
  return widenHalves(new Uint16Array(bytes.buffer), dtype as 'bf16' | 'f16');
}

function rootMeanSquare(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
}

describe('the tensors', () => {
  test('of a Llama in codes of GPTQ', async () => {
    const checkpoint = await make(GPTQ);
    expect(describeTensors(checkpoint)).toMatchObject({
      'self_attn.q_proj.qweight': 'i32 [8,128]',
      'self_attn.q_proj.qzeros': 'i32 [1,8]',
      'self_attn.q_proj.scales': 'f16 [1,128]',
      'mlp.down_proj.qweight': 'i32 [16,128]',
      'mlp.down_proj.qzeros': 'i32 [2,8]',
      'lm_head.weight': 'f16 [302,128]',
    });
    const name = 'model.layers.1.mlp.down_proj';
    const zeros = await checkpoint.read(`${name}.qzeros`);
    expect(new Set(zeros)).toEqual(new Set([0b01010101]));
    const codes = [...(await checkpoint.read(`${name}.qweight`))].flatMap((byte) =>
      [0, 2, 4, 6].map((bit) => ((byte >> bit) & 3) - 2),
    );
    const scale = rootMeanSquare(await halves(checkpoint, `${name}.scales`));
    await checkpoint.close();
    // Outputs of unit variance for inputs of it.
    expect(rootMeanSquare(Float32Array.from(codes)) * scale * Math.sqrt(256)).toBeCloseTo(1, 1);
  });

  test('of a packed BitNet', async () => {
    const checkpoint = await make(BITNET);
    const linear = (name: string, rows: number, cols: number) => ({
      [`${name}.weight`]: `u8 [${rows / 4},${cols}]`,
      [`${name}.weight_scale`]: 'bf16 [1]',
    });
    expect(describeTensors(checkpoint)).toEqual({
      'model.embed_tokens.weight': 'bf16 [320,64]',
      'input_layernorm.weight': 'bf16 [64]',
      ...linear('self_attn.q_proj', 64, 64),
      ...linear('self_attn.k_proj', 32, 64),
      ...linear('self_attn.v_proj', 32, 64),
      'self_attn.attn_sub_norm.weight': 'bf16 [64]',
      ...linear('self_attn.o_proj', 64, 64),
      'post_attention_layernorm.weight': 'bf16 [64]',
      ...linear('mlp.gate_proj', 96, 64),
      ...linear('mlp.up_proj', 96, 64),
      'mlp.ffn_sub_norm.weight': 'bf16 [96]',
      ...linear('mlp.down_proj', 64, 96),
      'model.norm.weight': 'bf16 [64]',
    });
    await checkpoint.close();
  });

  test('of 1bitLLM: f16 master weights, other norms', async () => {
    const checkpoint = await make(ONE_BIT_LLM);
    const tensors = describeTensors(checkpoint);
    expect(tensors).toMatchObject({
      'model.embed_tokens.weight': 'f16 [302,64]',
      'self_attn.q_proj.weight': 'f16 [64,64]',
      'self_attn.inner_attn_ln.weight': 'f16 [64]',
      'mlp.ffn_layernorm.weight': 'f16 [96]',
      'mlp.down_proj.weight': 'f16 [64,96]',
    });
    expect(Object.keys(tensors).filter((name) => /scale|lm_head|sub_norm/.test(name))).toEqual([]);
    await checkpoint.close();
  });

  test('of a Llama: packed, no inner norms, a head of its own', async () => {
    const checkpoint = await make(LLAMA);
    const tensors = describeTensors(checkpoint);
    expect(tensors).toMatchObject({ 'lm_head.weight': 'bf16 [320,64]', 'mlp.up_proj.weight': 'u8 [24,64]' });
    expect(Object.keys(tensors).filter((name) => /sub_norm|_ln|ffn_layernorm/.test(name))).toEqual([]);
    await checkpoint.close();
  });
});

describe('the values', () => {
  test('are ternary codes, all about equally frequent in all four fields', async () => {
    const checkpoint = await make({ ...BITNET, num_hidden_layers: 1, intermediate_size: 4096 });
    const bytes = await checkpoint.read('model.layers.0.mlp.up_proj.weight');
    const counts = Array.from({ length: 4 }, () => [0, 0, 0, 0]);
    for (const byte of bytes) for (let f = 0; f < 4; f++) counts[f]![(byte >> (2 * f)) & 3]!++;
    for (const [minus, zero, plus, invalid] of counts as [number, number, number, number][]) {
      expect(invalid).toBe(0);
      for (const count of [minus, zero, plus])
        expect(Math.abs(count / bytes.length - 1 / 3)).toBeLessThan(0.01);
    }
    await checkpoint.close();
  });

  test.each([
    ['multiplied', BITNET],
    ['divided', LLAMA],
  ])('keep the variance when outputs are %s by weight_scale', async (direction, config) => {
    const k = 512;
    const checkpoint = await make({ ...config, hidden_size: k, num_hidden_layers: 1 });
    const bytes = await checkpoint.read('model.layers.0.mlp.gate_proj.weight');
    const scaleBytes = await checkpoint.read('model.layers.0.mlp.gate_proj.weight_scale');
    const stored = bf16ToF32(scaleBytes[0]! | (scaleBytes[1]! << 8));
    const scale = direction === 'multiplied' ? stored : 1 / stored;
    const uniform = randomUniform(5);
    const input = Float32Array.from({ length: k }, () => (uniform() - 0.5) * Math.sqrt(12));
    const outputs = new Float32Array(96);
    for (let i = 0; i < bytes.length; i++) {
      for (let f = 0; f < 4; f++) {
        const row = Math.floor(i / k) + 24 * f;
        outputs[row]! += (((bytes[i]! >> (2 * f)) & 3) - 1) * input[i % k]! * scale;
      }
    }
    expect(rootMeanSquare(outputs)).toBeGreaterThan(0.7);
    expect(rootMeanSquare(outputs)).toBeLessThan(1.3);
    await checkpoint.close();
  });

  test('keep the variance when master weights are quantized', async () => {
    const checkpoint = await make(BITNET_BF16);
    const weights = await halves(checkpoint, 'model.layers.0.mlp.down_proj.weight');
    const mean = weights.reduce((sum, value) => sum + Math.abs(value), 0) / weights.length;
    const kept = weights.filter((value) => Math.abs(value) > mean / 2).length / weights.length;
    expect(Math.sqrt(96 * kept) * mean).toBeGreaterThan(0.95);
    expect(Math.sqrt(96 * kept) * mean).toBeLessThan(1.05);
    const norm = await halves(checkpoint, 'model.norm.weight');
    expect(rootMeanSquare(norm.map((value) => value - 1))).toBeLessThan(0.1);
    const embedding = await halves(checkpoint, 'model.embed_tokens.weight');
    expect(rootMeanSquare(embedding) * Math.sqrt(64)).toBeCloseTo(1, 1);
    await checkpoint.close();
  });

  test('depend on the seed and the name only', async () => {
    const files: Buffer[] = [];
    for (const seed of [1, 1, 2]) {
      const own = join(folder, String(files.length));
      await synthesizeConfig(BITNET, own, { seed });
      files.push(await readFile(join(own, 'model.safetensors')));
    }
    expect(files[0]!.equals(files[1]!)).toBe(true);
    expect(files[0]!.equals(files[2]!)).toBe(false);
    const checkpoint = await openCheckpoint(join(folder, '0'));
    const [q, o] = await Promise.all(
      ['q_proj', 'o_proj'].map((name) => checkpoint.read(`model.layers.0.self_attn.${name}.weight`)),
    );
    expect(q).not.toEqual(o);
    await checkpoint.close();
  });
});

describe('the tokenizer', () => {
  test.each([
    ['Llama 3 order', BITNET, '<|begin_of_text|>', 300, '<|eot_id|>', 309],
    ['Llama 2 order', ONE_BIT_LLM, '<s>', 1, '</s>', 2],
  ])(
    'in %s has the whole vocabulary, reads any text and renders chats',
    async (_order, config, bos, bosId, end, endId) => {
      const checkpoint = await make(config);
      const tokenizerConfig = JSON.parse(checkpoint.textFiles.get('tokenizer_config.json')!);
      const tokenizer = new Tokenizer(
        JSON.parse(checkpoint.textFiles.get('tokenizer.json')!),
        tokenizerConfig,
      );
      const size = config.vocab_size as number;
      const texts = Array.from({ length: size }, (_, id) => tokenizer.id_to_token(id));
      expect(new Set(texts).size).toBe(size);
      expect(texts).not.toContain(undefined);
      const text = 'Grüße, 層! 123\n\t🦦';
      const { ids } = tokenizer.encode(text);
      expect(ids[0]).toBe(bosId);
      expect(ids).toHaveLength(1 + new TextEncoder().encode(text).length);
      expect(tokenizer.decode(ids, { skip_special_tokens: true })).toBe(text);
      expect(tokenizer.decode([280])).toMatch(/^ [a-z]{6}$/);
      const chat = new Template(tokenizerConfig.chat_template).render({
        messages: [{ role: 'user', content: 'hi ' }],
        bos_token: bos,
        add_generation_prompt: true,
      });
      expect(chat).toBe(`${bos}User: hi${end}Assistant: `);
      expect(tokenizer.encode(chat, { add_special_tokens: false }).ids).toContain(endId);
      expect(checkpoint.generationConfig.eos_token_id).toContain(endId);
      await checkpoint.close();
    },
  );

  test('has the special tokens of the real vocabulary at their ids', async () => {
    const checkpoint = await make({ ...SYNTH_PRESETS['bitnet-2b-4t'], ...SIZES, hidden_size: 16 });
    const { added_tokens: added, model } = JSON.parse(checkpoint.textFiles.get('tokenizer.json')!);
    const ids = new Map<string, number>(
      added.map((token: { content: string; id: number }) => [token.content, token.id]),
    );
    expect(ids.get('<|begin_of_text|>')).toBe(128000);
    expect(ids.get('<|end_of_text|>')).toBe(128001);
    expect(ids.get('<|start_header_id|>')).toBe(128006);
    expect(ids.get('<|eot_id|>')).toBe(128009);
    expect(ids.get('<|reserved_special_token_250|>')).toBe(128255);
    expect(ids.size + Object.keys(model.vocab).length).toBe(128256);
    expect(model.vocab).toMatchObject({ '!': 0, '~': 93, '¡': 94, Ā: 188, Ġ: 220 });
    await checkpoint.close();
  });
});

test('progress ends at the total', async () => {
  const seen: number[][] = [];
  await synthesizeConfig(BITNET, folder, { onProgress: (done, total) => seen.push([done, total]) });
  const [done, total] = seen.at(-1)!;
  expect(done).toBe(total);
  expect(total).toBeGreaterThan(2 * 320 * 64);
});

describe('refuses', () => {
  test('a folder that is not empty, and leaves it alone', async () => {
    await writeFile(join(folder, 'config.json'), 'mine');
    await expect(synthesizeConfig(BITNET, folder)).rejects.toMatchObject({
      code: 'usage',
      message: /not empty/,
    });
    expect(await readFile(join(folder, 'config.json'), 'utf8')).toBe('mine');
  });

  test('a configuration without its sizes, or without room for the special tokens', async () => {
    const { hidden_size: _, ...without } = BITNET;
    await expect(synthesizeConfig(without, folder)).rejects.toMatchObject({
      code: 'usage',
      message: /hidden_size/,
    });
    await expect(synthesizeConfig({ ...BITNET, vocab_size: 305 }, folder)).rejects.toMatchObject({
      code: 'usage',
      message: /at least 310/,
    });
  });

  test('to go on when cancelled, and leaves nothing', async () => {
    const controller = new AbortController();
    const writing = synthesizeConfig(BITNET, folder, {
      signal: controller.signal,
      onProgress: () => controller.abort(),
    });
    await expect(writing).rejects.toMatchObject({ code: 'cancelled' });
    expect(await readdir(folder)).toEqual([]);
  });
});
