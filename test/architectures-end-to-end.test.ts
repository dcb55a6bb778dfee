/** Folders of published architectures, compiled and run: logits are those of the definition, but for what an f16 cache rounds. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { compile } from '../src/api/compile.ts';
import { loadEmbedder } from '../src/api/embed.ts';
import { load } from '../src/api/load.ts';
import { synthesizeConfig } from '../src/checkpoint/synth.ts';
import { writeSafetensors } from '../src/checkpoint/write.ts';
import {
  type Architecture,
  asTensors,
  publishedForward,
  randomWeights,
  SHAPE,
  type Weights,
} from './support/published.ts';
import { scratchWithCache } from './support/scratch.ts';

const scratch = scratchWithCache('architectures');

const CASES: readonly {
  readonly architecture: Architecture;
  readonly config: Readonly<Record<string, unknown>>;
}[] = [
  { architecture: 'qwen2', config: { tie_word_embeddings: true } },
  {
    architecture: 'gemma3_text',
    config: {
      hidden_activation: 'gelu_pytorch_tanh',
      rope_local_base_freq: 10000,
      query_pre_attn_scalar: 17,
      sliding_window: 5,
      sliding_window_pattern: 2,
    },
  },
];

const TOKENS = [600, 5, 36, 9, 22, 3, 3, 17, 530, 8, 11, 2, 25];

/** A folder with a tokenizer, and with these weights. */
async function makeFolder(
  name: string,
  config: Readonly<Record<string, unknown>>,
  weights: Weights,
  rename = (tensor: string) => tensor,
): Promise<string> {
  const folder = join(scratch, name);
  // Weights that are then replaced.
  await synthesizeConfig({ ...config, model_type: 'llama' }, folder, { seed: 5 });
  const tensors = Object.entries(asTensors(weights)).map(([stored, { dtype, shape, bytes }]) => ({
    name: rename(stored),
    dtype,
    shape,
    chunks: () => [bytes],
  }));
  await writeSafetensors(folder, tensors);
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  return folder;
}

it.each(CASES)(
  '$architecture by way of C and of WebAssembly',
  { timeout: 60_000 },
  async ({ architecture, config }) => {
    const full = {
      ...SHAPE,
      head_dim: 8,
      num_hidden_layers: 2,
      vocab_size: 640,
      bos_token_id: 600,
      eos_token_id: 609,
      model_type: architecture,
      ...config,
    };
    const weights = randomWeights(architecture, full);
    const folder = await makeFolder(architecture, full, weights);
    const published = publishedForward(architecture, full, weights, TOKENS).flat();
    const logitsOf: Float32Array[] = [];
    for (const target of ['c', 'wasm'] as const) {
      await using model = await load(folder, { target });
      await using session = model.createSession();
      const logits = await session.forward(Int32Array.from(TOKENS), 'all');
      logitsOf.push(logits);
      const largest = Math.max(...published.map(Math.abs));
      expect(logits.length).toBe(published.length);
      published.forEach((x, i) => {
        expect(Math.abs(logits[i]! - x)).toBeLessThan(3e-3 * largest);
      });
    }
    // Bit for bit.
    expect(logitsOf[0]).toEqual(logitsOf[1]);
  },
);

it('embeds texts with BitNet embedding models', { timeout: 60_000 }, async () => {
  const full = {
    ...SHAPE,
    head_dim: 8,
    num_hidden_layers: 2,
    vocab_size: 640,
    bos_token_id: 600,
    eos_token_id: 609,
    model_type: 'qwen3',
    architectures: ['Qwen3Model'],
    tie_word_embeddings: true,
    bitnet_layers: true,
  };
  const weights = randomWeights('qwen3', full);
  const folder = await makeFolder('embedding', full, weights, (name) => name.replace('model.', ''));
  const found: Float32Array[] = [];
  let ids: number[] = [];
  for (const target of ['c', 'wasm'] as const) {
    await using model = await loadEmbedder(folder, { target });
    expect(model.dimensions).toBe(SHAPE.hidden_size);
    // Together, and not the first one: each has the cache to itself.
    const [, vector] = await Promise.all(['something else', 'ab cd', 'zz'].map((text) => model.embed(text)));
    found.push(vector!);
    await using logits = await load(folder, { target });
    ids = [...logits.tokenize('ab cd')];
    if (logits.endOfText !== undefined && ids.at(-1) !== logits.endOfText) ids.push(logits.endOfText);
    await expect(model.embed('')).rejects.toThrow('the text is empty');
    await expect(model.embed('ab '.repeat(400))).rejects.toThrow('do not fit the context of 64');
  }
  expect(found[0]).toEqual(found[1]);
  const output = join(scratch, 'headless.lutra');
  await compile(folder, { output, head: 'none', target: 'wasm' });
  await expect(load(output)).rejects.toThrow('was compiled without an output head');
  const last = publishedForward('qwen3', full, weights, ids, 64, 'hidden').at(-1)!;
  const length = Math.hypot(...last);
  const cosine = last.reduce((sum, x, i) => sum + (x / length) * found[0]![i]!, 0);
  expect(Math.abs(Math.hypot(...found[0]!) - 1)).toBeLessThan(1e-6);
  // Where f32 and float64 differ in the last bit, an int8 activation may be one more or less.
  expect(cosine).toBeGreaterThan(0.999);
});
