/** Folders of published architectures, compiled and run: logits are those of the definition, but for what an f16 cache rounds. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { load } from '../src/api/load.ts';
import { synthesizeConfig } from '../src/checkpoint/synth.ts';
import { writeSafetensors } from '../src/checkpoint/write.ts';
import { type Architecture, asTensors, publishedForward, randomWeights, SHAPE } from './support/published.ts';

const scratch = mkdtempSync(join(tmpdir(), 'lutra-architectures-'));
const cacheBefore = process.env.LUTRA_CACHE;
beforeAll(() => {
  process.env.LUTRA_CACHE = join(scratch, 'cache');
});
afterAll(() => {
  if (cacheBefore === undefined) delete process.env.LUTRA_CACHE;
  else process.env.LUTRA_CACHE = cacheBefore;
  rmSync(scratch, { recursive: true, force: true });
});

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
    const folder = join(scratch, architecture);
    // A tokenizer, and weights that are then replaced.
    await synthesizeConfig({ ...full, model_type: 'llama' }, folder, { seed: 5 });
    const weights = randomWeights(architecture, full);
    const tensors = Object.entries(asTensors(weights)).map(([name, { dtype, shape, bytes }]) => ({
      name,
      dtype,
      shape,
      chunks: () => [bytes],
    }));
    await writeSafetensors(folder, tensors);
    writeFileSync(join(folder, 'config.json'), JSON.stringify(full));
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
