/** Every published configuration that lutra can synthesize is imported, in a small size, from real files. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { SYNTH_PRESETS } from '../src/checkpoint/synth/presets.ts';
import { synthesizeConfig } from '../src/checkpoint/synth.ts';
import { ReferenceExecutor } from '../src/graph/reference.ts';
import { ReferenceCache } from '../src/graph/step.ts';
import { importModel } from '../src/models/import.ts';
import { exactValues } from '../src/models/weights.ts';
import { runPasses } from '../src/passes/pipeline.ts';

const SMALL = {
  hidden_size: 40,
  intermediate_size: 52,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 16,
};

/** GPTQ packs whole groups of 128 columns. */
const SMALL_GPTQ = { ...SMALL, hidden_size: 128, intermediate_size: 256 };

/** Special tokens follow 256 bytes, in either family's way. */
function smallIds(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Number(config.bos_token_id) < 256
    ? { vocab_size: 400, pad_token_id: 399 }
    : { vocab_size: 600, bos_token_id: 300, eos_token_id: 301 };
}

const expected: Readonly<Record<string, readonly [string, string]>> = {
  'bitnet-2b-4t': ['bitnet', 'multiply'],
  'bitnet-2b-4t-bf16': ['bitnet', 'online'],
  'bitnet-3b': ['1bitllm', 'online'],
  'llama3-8b-1.58': ['llama-bitnet', 'divide'],
  'llama2-7b-w2': ['llama', 'groups'],
  'llama2-7b-w4': ['llama', 'groups'],
};

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'lutra-presets-'));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

it.each(Object.entries(SYNTH_PRESETS))('%s', async (preset, config) => {
  const folder = join(scratch, preset);
  const small = preset.startsWith('llama2') ? SMALL_GPTQ : SMALL;
  await synthesizeConfig({ ...config, ...small, ...smallIds(config) }, folder);
  const checkpoint = await openCheckpoint(folder);
  const { graph, info } = importModel(checkpoint);
  const { quantization } = info;
  const how = quantization.form === 'packed' ? quantization.direction : quantization.form;
  expect([info.architecture, how]).toEqual(expected[preset]);
  expect([info.name, info.headDim, info.tied]).toEqual([
    preset,
    small.hidden_size / small.num_attention_heads,
    config.tie_word_embeddings,
  ]);
  const executor = await ReferenceExecutor.create(runPasses(graph), (c) => exactValues(c, checkpoint));
  const logits = executor.forward(Int32Array.of(300, 72, 105), {
    position: 0,
    logits: 'last',
    cache: new ReferenceCache(),
  });
  expect(logits.length).toBe(info.vocab);
  expect(logits.every(Number.isFinite)).toBe(true);
  expect(new Set(logits).size).toBeGreaterThan(info.vocab / 2);
  await checkpoint.close();
});
