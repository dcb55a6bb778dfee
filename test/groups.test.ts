/**
 * A Llama whose weights are in groups, from the checkpoint to logits: GPTQ codes and floats rounded on import, on
 * every target here, against each other bit for bit and against the float64 reference.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { compile } from '../src/api/compile.ts';
import { openArtifact } from '../src/artifact/open.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { SYNTH_PRESETS } from '../src/checkpoint/synth/presets.ts';
import { synthesizeConfig } from '../src/checkpoint/synth.ts';
import { ReferenceExecutor } from '../src/graph/reference.ts';
import { ReferenceCache } from '../src/graph/step.ts';
import { importModel } from '../src/models/import.ts';
import { exactValues } from '../src/models/weights.ts';
import { detectHost } from '../src/runtime/load.ts';
import { startExecutable } from '../src/runtime/start.ts';
import { candidates } from '../src/runtime/targets.ts';

const scratch = mkdtempSync(join(tmpdir(), 'lutra-groups-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const llama = {
  ...SYNTH_PRESETS['llama2-7b-w2'],
  hidden_size: 128,
  intermediate_size: 256,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  vocab_size: 302,
};

const { quantization_config: _, ...floats } = llama as Record<string, unknown>;

const TOKENS = [3, 141, 59, 26, 5, 35, 8, 97, 93];
const VOCAB = 302;

describe.each([
  ['GPTQ codes of 2 bits', llama, {}],
  ['floats rounded to 3 bits', floats, { bits: 3, group: 64, activations: 'int8' }],
  ['floats rounded to trits', floats, { bits: 'ternary' }],
  ['floats as stored', floats, {}],
] as const)('%s', (name, config, options) => {
  it('give the same logits on every target, and those of the reference', async () => {
    const folder = join(scratch, name);
    await synthesizeConfig(config, folder, { seed: 4 });
    const output = join(scratch, `${name} compiled`);
    await compile(folder, { output, context: 64, ...options });
    const artifact = await openArtifact(output);
    const host = await detectHost();
    const found: Float32Array[] = [];
    for (const target of candidates('auto', artifact.manifest.code, host)) {
      const executable = await startExecutable({ ...artifact.manifest, path: output }, target, 2);
      const cache = executable.createCache();
      const rows: number[] = [];
      for (const [from, end] of [
        [0, 8],
        [8, 9],
      ] as const) {
        const tokens = Int32Array.from(TOKENS.slice(from, end));
        const [logits] = await executable.step([{ tokens, position: from, cache, logits: 'all' }]);
        rows.push(...logits!);
      }
      found.push(Float32Array.from(rows));
      cache.free();
      await executable.close();
    }
    expect(found.length).toBeGreaterThan(0);
    for (const logits of found) expect(logits).toEqual(found[0]);

    const checkpoint = await openCheckpoint(folder);
    const { graph } = importModel(checkpoint, options);
    const model = await ReferenceExecutor.create(graph, (constant) => exactValues(constant, checkpoint));
    const cache = new ReferenceCache();
    const expected = model.forward(Int32Array.from(TOKENS), { position: 0, logits: 'all', cache });
    await checkpoint.close();
    const stride = found[0]!.length / TOKENS.length;
    let [errors, squares] = [0, 0];
    for (const [i, value] of expected.entries()) {
      errors += (found[0]![Math.floor(i / VOCAB) * stride + (i % VOCAB)]! - value) ** 2;
      squares += value ** 2;
    }
    // In int8, an activation near half a step is rounded one way or the other.
    expect(errors / squares).toBeLessThan('activations' in options ? 1e-4 : 1e-7);
  });
});
