/**
 * GGUF files end to end: the embedded model and a Llama of random weights are converted to every type, run
 * again by lutra with the same tokens, and by llama.cpp where node-llama-cpp is installed (here, or in the
 * folder LUTRA_LLAMA_CPP).
 */
import { mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type ConvertType, convert } from '../src/api/convert.ts';
import { load } from '../src/api/load.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { synthesizeConfig } from '../src/checkpoint/synth.ts';
import { parseTests } from '../src/cli/evaluate.ts';
import type { Model } from '../src/runtime/types.ts';
import { askLlamaCpp, llamaCpp } from './support/llama-cpp.ts';
import { scratchWithCache } from './support/scratch.ts';

const TYPES: readonly ConvertType[] = ['tq1_0', 'tq2_0', 'i2_s', 'q8_0'];
const EMBEDDED = 'models/tiny-bitnet';

const scratch = scratchWithCache('gguf');

const prompts = parseTests(readFileSync('test/data/test.jsonl', 'utf8'), 'test.jsonl')
  .filter((_, i) => i % 80 === 0)
  .map(({ prompt }) => prompt);

async function answers(model: Model): Promise<readonly (readonly number[])[]> {
  const all: (readonly number[])[] = [];
  for (const prompt of prompts) {
    await using session = model.createSession();
    const { result } = session.generate([{ role: 'user', content: prompt }], {
      temperature: 0,
      maxTokens: 40,
    });
    all.push((await result).tokens);
  }
  return all;
}

/** A Llama of BitNet layers: random weights, an output head of its own, scales by which outputs are divided. */
const COUSIN = {
  architectures: ['LlamaForCausalLM'],
  bos_token_id: 600,
  eos_token_id: 609,
  hidden_act: 'silu',
  hidden_size: 256,
  intermediate_size: 512,
  max_position_embeddings: 256,
  model_type: 'llama',
  num_attention_heads: 4,
  num_hidden_layers: 3,
  num_key_value_heads: 2,
  quantization_config: { quant_method: 'bitnet' },
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  vocab_size: 640,
};

async function makeCousin(): Promise<string> {
  const folder = join(scratch, 'cousin');
  await synthesizeConfig(COUSIN, folder, { seed: 3 });
  return folder;
}

it('gives the same greedy tokens as from safetensors', { timeout: 60_000 }, async () => {
  await using original = await load(EMBEDDED, { target: 'wasm' });
  const expected = await answers(original);
  expect(expected.filter((tokens) => tokens.length > 0)).toHaveLength(prompts.length);
  for (const type of ['tq1_0', 'i2_s'] as const) {
    const path = join(scratch, `tiny-${type}.gguf`);
    const warnings: string[] = [];
    const converted = await convert(EMBEDDED, path, { type, onWarning: (text) => warnings.push(text) });
    expect(converted).toMatchObject({
      model: 'tiny-bitnet',
      architecture: type === 'i2_s' ? 'bitnet-b1.58' : 'bitnet',
      bytes: statSync(path).size,
    });
    expect(warnings).toEqual([]);
    await using model = await load(path, { target: 'wasm' });
    expect(model.name).toBe(`tiny-${type}`);
    expect(await answers(model)).toEqual(expected);
  }
});

it('holds every tensor of the checkpoint exactly, whatever the type', async () => {
  const original = await openCheckpoint(EMBEDDED);
  for (const type of TYPES) {
    const path = join(scratch, `exact-${type}.gguf`);
    await convert(EMBEDDED, path, { type, head: 'bf16' });
    const again = await openCheckpoint(path);
    expect([...again.tensors.keys()].sort()).toEqual([...original.tensors.keys()].sort());
    for (const [name, { dtype }] of original.tensors) {
      const [found, expected] = [await again.read(name), await original.read(name)];
      if (again.tensors.get(name)!.dtype === dtype) expect(Buffer.compare(found, expected), name).toBe(0);
      else {
        // Norms and scales are bf16 in the checkpoint, f32 in GGUF.
        const upper = new Uint16Array(new Uint8Array(found).buffer).filter((_, i) => i % 2 === 1);
        expect(Buffer.compare(new Uint8Array(upper.buffer), expected), name).toBe(0);
      }
    }
    await again.close();
  }
  await original.close();
});

it('tells files of the ARM order by the weights, and writes them in the other', async () => {
  const path = join(scratch, 'x86.gguf');
  await convert(EMBEDDED, path, { type: 'i2_s' });
  const bytes = readFileSync(path);
  // Every 64 values in 16 bytes instead of every 128 in 32: tensors end with the file.
  const original = await openCheckpoint(path);
  const arm = Buffer.from(bytes);
  let at = bytes.length;
  for (const { name, shape } of [...original.tensors.values()].reverse()) {
    if (name.endsWith('_scale')) continue;
    const size = name.endsWith('_proj.weight')
      ? shape[0]! * shape[1]! + 32
      : shape.reduce((a, b) => a * b, 1) * (name.includes('embed') ? 2 : 4);
    at -= Math.ceil(size / 32) * 32;
    if (!name.endsWith('_proj.weight')) continue;
    for (let block = at; block < at + size - 32; block += 32) {
      const codes = Array.from(
        { length: 128 },
        (_, i) => (bytes[block + (i % 32)]! >> (6 - 2 * (i >> 5))) & 3,
      );
      for (let p = 0; p < 32; p++) {
        const first = (p >> 4) * 64 + (p & 15);
        const [a, b, c, d] = [0, 16, 32, 48].map((step) => codes[first + step]!);
        arm[block + p] = (a! << 6) | (b! << 4) | (c! << 2) | d!;
      }
    }
  }
  const armPath = join(scratch, 'arm.gguf');
  writeFileSync(armPath, arm);
  const guessed = await openCheckpoint(armPath);
  const named = await openCheckpoint(armPath, { i2sOrder: 'x86' });
  const name = 'model.layers.3.mlp.down_proj.weight';
  const expected = await original.read(name);
  expect(Buffer.compare(await guessed.read(name), expected)).toBe(0);
  expect(Buffer.compare(await named.read(name), expected)).not.toBe(0);
  for (const checkpoint of [original, guessed, named]) await checkpoint.close();
  const back = join(scratch, 'back.gguf');
  await convert(armPath, back, { type: 'i2_s' });
  expect(Buffer.compare(readFileSync(back).subarray(-4096), bytes.subarray(-4096))).toBe(0);
});

describe('refuses', () => {
  const problem = (options: Parameters<typeof convert>[2], output = join(scratch, 'no.gguf')) =>
    convert(EMBEDDED, output, options).then(
      () => 'none',
      ({ code, message, hint }) => `${code}: ${message} ${hint}`,
    );

  it('architectures that the model is not', async () => {
    expect(await problem({ type: 'tq2_0', architecture: 'llama' })).toMatch(
      /^usage: .*has sub-norms.*bitnet/,
    );
  });

  it.each([
    [{ torch_dtype: 'bfloat16' }, /^unsupported: .*its weights are floats, not ternary/],
    [
      { quantization_config: { quant_method: 'gptq', bits: 4, group_size: 64, sym: true, desc_act: false } },
      /^unsupported: .*its weights are codes of groups, not ternary/,
    ],
  ])('models that are not ternary: %j', async (own, expected) => {
    const folder = mkdtempSync(join(scratch, 'other-'));
    const { quantization_config: _, ...rest } = COUSIN;
    await synthesizeConfig({ ...rest, ...own }, folder);
    const output = join(scratch, 'other.gguf');
    const why = await convert(folder, output, { type: 'tq2_0' }).then(
      () => 'none',
      ({ code, message }) => `${code}: ${message}`,
    );
    expect(why).toMatch(expected);
    expect(() => statSync(output)).toThrow('ENOENT');
  });

  it('folders that do not exist, and leaves nothing behind', async () => {
    expect(await problem({ type: 'tq2_0' }, join(scratch, 'none', 'no.gguf'))).toMatch(/^not-found: /);
    const stop = new AbortController();
    const path = join(scratch, 'cancelled.gguf');
    const why = await problem({ type: 'tq2_0', signal: stop.signal, onProgress: () => stop.abort() }, path);
    expect(why).toMatch(/^cancelled: /);
    expect(() => statSync(path)).toThrow('ENOENT');
  });
});

describe.skipIf(llamaCpp === undefined)('llama.cpp', () => {
  it.each(['tq1_0', 'tq2_0', 'q8_0'] as const)(
    'answers like lutra from %s',
    { timeout: 60_000 },
    async (type) => {
      await using model = await load(EMBEDDED, { target: 'wasm' });
      const expected = await answers(model);
      const path = join(scratch, `llama-${type}.gguf`);
      await convert(EMBEDDED, path, { type });
      const ids = prompts.map((prompt) => [
        ...model.tokenize(
          `<|start_header_id|>user<|end_header_id|>\n\n${prompt}<|eot_id|>` +
            '<|start_header_id|>assistant<|end_header_id|>\n\n',
        ),
      ]);
      // node-llama-cpp leaves the first token, bos, to its caller.
      const texts = ["It's 3 + 45 = 48.", 'Naïve café, 100% größer!\n\n  x'];
      const reply = askLlamaCpp({ model: path, prompts: ids, texts, maxTokens: 40 });
      expect(reply.tokens).toEqual(texts.map((text) => model.tokenize(text).slice(1)));
      // It quantizes activations in blocks, BitNet by tokens: a near tie may go the other way.
      const same = reply.answers.filter((tokens, i) => tokens.join() === expected[i]!.join()).length;
      expect(same).toBeGreaterThanOrEqual(prompts.length - 1);
    },
  );

  it('rotates the heads of a converted Llama as lutra does', { timeout: 60_000 }, async () => {
    const folder = await makeCousin();
    const path = join(scratch, 'cousin.gguf');
    const warnings: string[] = [];
    await convert(folder, path, { type: 'q8_0', head: 'bf16', onWarning: (text) => warnings.push(text) });
    expect(warnings).toEqual(['21 scales were rounded to 16 bits; type i2_s has them exactly']);
    await using model = await load(folder, { target: 'wasm' });
    const texts = [
      'one',
      'a third text of several words',
      'The quick brown fox',
      '12 + 345',
      'abc abc abc',
      'Hello!',
    ];
    const ids = texts.map((text) => [...model.tokenize(text)]);
    const reply = askLlamaCpp({ model: path, prompts: ids, texts: [], maxTokens: 1, keepEnd: true });
    for (const [i, prompt] of ids.entries()) {
      await using session = model.createSession();
      const logits = await session.forward(Int32Array.from(prompt), 'last');
      const best = logits.reduce((a, b) => Math.max(a, b));
      const mean = logits.reduce((a, b) => a + b) / logits.length;
      // It quantizes activations otherwise, so that near ties may go the other way; a stranger is at the mean.
      const chosen = logits[reply.answers[i]![0]!]!;
      expect((best - chosen) / (best - mean)).toBeLessThan(0.2);
    }
  });
});

it('reads a converted Llama with its q and k turned back', { timeout: 60_000 }, async () => {
  const folder = await makeCousin().catch(() => join(scratch, 'cousin'));
  const original = await openCheckpoint(folder);
  const path = join(scratch, 'cousin-i2s.gguf');
  await convert(folder, path, { type: 'i2_s', head: 'bf16' });
  const again = await openCheckpoint(path);
  for (const part of ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'mlp.down_proj']) {
    const name = `model.layers.1.${part}.weight`;
    expect(Buffer.compare(await again.read(name), await original.read(name)), name).toBe(0);
  }
  expect(Buffer.compare(await again.read('lm_head.weight'), await original.read('lm_head.weight'))).toBe(0);
  await original.close();
  await again.close();
});
