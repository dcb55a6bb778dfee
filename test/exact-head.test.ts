/**
 * The exact head of the embedded model: on every target, bounds hold for every logit, what is computed after them
 * has the bits of the stored head, and generated tokens are the stored head's, greedy and sampled.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/api/compile.ts';
import { load } from '../src/api/load.ts';
import { type Artifact, openArtifact } from '../src/artifact/open.ts';
import { randomUniform } from '../src/common/random.ts';
import { detectHost } from '../src/runtime/load.ts';
import { startExecutable } from '../src/runtime/start.ts';
import { candidates } from '../src/runtime/targets.ts';
import type { SamplingOptions } from '../src/runtime/types.ts';
import type { Executable, Logits, SelectRequest } from '../src/targets/executable.ts';

const scratch = mkdtempSync(join(tmpdir(), 'lutra-exact-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const host = await detectHost();
let path: string;
let storedPath: string;
let artifact: Artifact;
beforeAll(async () => {
  path = await compile('models/tiny-bitnet', { output: join(scratch, 'exact'), head: 'exact', context: 512 });
  storedPath = await compile('models/tiny-bitnet', { output: join(scratch, 'stored'), target: 'wasm' });
  artifact = await openArtifact(path);
}, 120_000);

const random = randomUniform(11);
const tokensOf = (count: number) => Int32Array.from({ length: count }, () => Math.floor(random() * 1024));

/** Every logit within 6 of the largest lower bound; checks the bounds of all against `exact`, [outputs][vocab]. */
function checkingSelect(exact: readonly Float32Array[]): SelectRequest['select'] {
  return (low, high, output) => {
    const logits = exact[output]!;
    expect(logits.every((v, id) => low[id]! <= v && v <= high[id]!)).toBe(true);
    const floor = Math.max(...low) - 6;
    return Int32Array.from(logits.keys()).filter((id) => high[id]! >= floor);
  };
}

/** Runs the requests in full and selected, in caches of their own, and compares. Returns how many were chosen. */
async function compare(
  executable: Executable,
  parts: readonly { tokens: Int32Array; logits: 'last' | 'all' }[],
) {
  const caches = parts.map(() => executable.createCache());
  const requests = parts.map((part, i) => ({ ...part, position: 0, cache: caches[i]! }));
  const full = (await executable.step(requests)).map((all) =>
    Array.from({ length: all.length / 1024 }, (_, row) => all.subarray(row * 1024, (row + 1) * 1024)),
  );
  const selected = await executable.stepSelected(
    requests.map((request, i) => ({ ...request, select: checkingSelect(full[i]!) })),
  );
  for (const cache of caches) cache.free();
  const flat = (logits: readonly (readonly Logits[])[]) => logits.flat();
  const exact = full.flat();
  return flat(selected).map((logits, output) => {
    const all = exact[output]!;
    if (logits instanceof Float32Array) {
      expect(logits).toEqual(all);
      return 1024;
    }
    expect(logits.values).toEqual(Float32Array.from(logits.ids, (id) => all[id]!));
    return logits.ids.length;
  });
}

describe('on every target', () => {
  it('bounds hold, and chosen logits have the bits of the stored head', async () => {
    const { needs, code } = artifact.manifest;
    const runnable = { path, needs, code };
    const all = candidates('auto', code, host);
    expect(all.length).toBeGreaterThan(2);
    const single = [{ tokens: tokensOf(9), logits: 'last' as const }];
    const several = [
      { tokens: tokensOf(5), logits: 'all' as const },
      { tokens: tokensOf(150), logits: 'last' as const },
      { tokens: tokensOf(1), logits: 'last' as const },
      // Of two blocks: the first one's outputs must survive the second.
      { tokens: tokensOf(60), logits: 'last' as const },
      { tokens: tokensOf(8), logits: 'all' as const },
    ];
    const tooMany = [{ tokens: tokensOf(17), logits: 'all' as const }];
    const counts: number[][] = [];
    for (const candidate of all) {
      const executable = await startExecutable(runnable, candidate, 2);
      try {
        const chosen = [await compare(executable, single), await compare(executable, several)].flat();
        // Few enough to be of use.
        expect(Math.max(...chosen)).toBeLessThan(700);
        counts.push(chosen);
        // More outputs than may be bounded.
        expect(await compare(executable, tooMany)).toEqual(Array(17).fill(1024));
      } finally {
        await executable.close();
      }
    }
    for (const chosen of counts) expect(chosen).toEqual(counts[0]);
    expect(counts[0]!.length).toBe(17);
  }, 60_000);
});

const SAMPLINGS: readonly SamplingOptions[] = [
  { temperature: 0 },
  { temperature: 0, repetitionPenalty: 1.3 },
  { temperature: 1.5, topK: 8, topP: 1, minP: 0, seed: 4 },
  { temperature: 1.2, topK: 20, topP: 0.8, minP: 0.01, repetitionPenalty: 1.2, seed: 5 },
  { temperature: 1.5, topK: 0, topP: 1, minP: 0.05, seed: 6 },
  { temperature: 1, topK: 0, topP: 0.9, minP: 0, seed: 7 },
];

describe.each(SAMPLINGS)('tokens of %j', (sampling) => {
  it.each([0, 7])("are the stored head's, %i guesses a step", async (speculate) => {
    await using model = await load(path, { target: 'auto' });
    const prompt = 'one two three one two three one two';
    await using session = model.createSession();
    const generation = session.generate(prompt, { ...sampling, speculate, maxTokens: 40, raw: true });
    const { tokens, finishReason, head } = await generation.result;

    await using stored = await load(storedPath, { target: 'wasm' });
    await using other = stored.createSession();
    const expected = await other.generate(prompt, { ...sampling, maxTokens: 40, raw: true }).result;
    expect({ tokens, finishReason }).toEqual({
      tokens: expected.tokens,
      finishReason: expected.finishReason,
    });
    expect(expected.head).toBeUndefined();
    if (sampling.topP === 0.9)
      expect(head).toMatchObject({ median: 1024, max: 1024, full: expect.any(Number) });
    else expect(head!.median).toBeLessThan(500);
  });
});
