/**
 * The proof: both forms of the embedded model, on every target and instruction set this machine runs, with
 * one and two threads, batched and token by token, against the outputs of an independent float64
 * implementation; and all of them against each other, bit for bit.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/api/compile.ts';
import { load } from '../src/api/load.ts';
import { type Artifact, openArtifact } from '../src/artifact/open.ts';
import { measureAccuracy, measurePerplexity, parseTests } from '../src/cli/evaluate.ts';
import { CHUNK } from '../src/kernels/attention/shape.ts';
import { detectHost } from '../src/runtime/load.ts';
import { StepScheduler } from '../src/runtime/scheduler.ts';
import { Sequence } from '../src/runtime/sequence.ts';
import { startExecutable } from '../src/runtime/start.ts';
import { candidates } from '../src/runtime/targets.ts';

interface Reference {
  readonly prompts: readonly {
    readonly prompt: string;
    readonly ids: readonly number[];
    readonly logits_last: readonly (readonly [number, number])[];
    readonly greedy_ids: readonly number[];
    readonly smallest_margin: number;
  }[];
}

/** f32 activations round to int8 differently from float64 ones near ties: the bound the model's notes give. */
const LOGITS_BOUND = 0.3;
/** Below this the two best tokens are within that noise. */
const SURE_MARGIN = 0.1;

const FORMS = [
  { name: 'packed', checkpoint: 'models/tiny-bitnet', reference: 'test/data/reference/tiny-bitnet.json' },
  {
    name: 'master weights',
    checkpoint: 'test/data/tiny-bitnet-bf16',
    reference: 'test/data/reference/tiny-bitnet-bf16.json',
  },
];

const scratch = mkdtempSync(join(tmpdir(), 'lutra-embedded-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

describe('held-out accuracy and perplexity of the embedded model', () => {
  const tests = parseTests(readFileSync('test/data/test.jsonl', 'utf8'), 'test.jsonl');
  const text = readFileSync('test/data/heldout.txt', 'utf8');

  it('equal the reference', async () => {
    await using model = await load('models/tiny-bitnet');
    const accuracy = await measureAccuracy(model, tests);
    // 1203 of 1238 in float64; 0.2 points are two and a half prompts.
    expect(Math.abs(accuracy.overall - 1203 / 1238)).toBeLessThan(0.002);
    const perplexity = await measurePerplexity(model, text);
    expect(Math.abs(perplexity / 1.5747583246763674 - 1)).toBeLessThan(0.001);
  }, 300_000);

  it('are the same on WebAssembly, on a sample', async () => {
    const sampled = tests.filter((_, i) => i % 12 === 0);
    const lines = text.split('\n').slice(0, 20).join('\n');
    const results: unknown[] = [];
    for (const target of ['auto', 'wasm:baseline']) {
      await using model = await load('models/tiny-bitnet', { target });
      const accuracy = await measureAccuracy(model, sampled);
      results.push({ accuracy, perplexity: await measurePerplexity(model, lines) });
    }
    expect(results[1]).toEqual(results[0]);
  }, 300_000);
});

describe.each(FORMS)('the embedded model, $name', ({ name, checkpoint, reference }) => {
  const { prompts } = JSON.parse(readFileSync(reference, 'utf8')) as Reference;
  const host = detectHost();
  /** Logits of every run, to be the same bits everywhere. */
  const seen = new Map<string, Float32Array>();
  let artifact: Artifact;

  beforeAll(async () => {
    const output = join(scratch, name);
    artifact = await openArtifact(await compile(checkpoint, { output }));
  }, 300_000);

  it('agrees with the reference and with itself on every target, at 1 and 2 threads', async () => {
    const runnable = { path: artifact.path, needs: artifact.manifest.needs, code: artifact.manifest.code };
    const chain = candidates('auto', artifact.manifest.code, await host);
    expect(chain.map((c) => c.machine)).toContain('wasm:baseline');
    for (const candidate of chain) {
      for (const threads of [1, 2]) {
        const executable = await startExecutable(runnable, candidate, threads);
        const scheduler = new StepScheduler(executable);
        const { context, needs } = artifact.manifest;
        const newSequence = () => new Sequence(scheduler, context, needs.vocab);
        try {
          for (const [i, { ids, logits_last, greedy_ids, smallest_margin }] of prompts.entries()) {
            const what = `${candidate.machine}, ${threads} threads, prompt ${i}`;
            const sequence = newSequence();
            let logits = await sequence.forward(ids, 'last');
            const first = seen.get(`${i}`);
            if (first === undefined) {
              seen.set(`${i}`, logits);
              for (const [id, expected] of logits_last) {
                expect(Math.abs(logits[id]! - expected), what).toBeLessThan(LOGITS_BOUND);
              }
            } else {
              expect(logits, what).toEqual(first);
            }
            const generated: number[] = [];
            for (const expected of greedy_ids) {
              const token = argmax(logits);
              generated.push(token);
              if (token !== expected || generated.length === greedy_ids.length) break;
              logits = await sequence.forward([token], 'last');
            }
            if (smallest_margin > SURE_MARGIN) expect(generated, what).toEqual(greedy_ids);
            sequence.free();
            // Token by token must give the same bits; a few prompts show it.
            if (i % 7 !== 0) continue;
            const single = newSequence();
            let last = new Float32Array(0) as Float32Array;
            for (const id of ids) last = await single.forward([id], 'last');
            expect(last, `${what}, token by token`).toEqual(seen.get(`${i}`));
            single.free();
          }
          // Many at once, at positions of their own, must give them too.
          const together = prompts.slice(0, 16).map(({ ids }) => ({ ids, sequence: newSequence() }));
          const logits = await Promise.all(
            together.map(async ({ ids, sequence }) => {
              await sequence.forward(ids.slice(0, -1), 'last');
              return sequence.forward(ids.slice(-1), 'last');
            }),
          );
          for (const [i, { sequence }] of together.entries()) {
            expect(logits[i], `${candidate.machine}, ${threads} threads, ${i} of a batch`).toEqual(
              seen.get(`${i}`),
            );
            sequence.free();
          }
          // A few tokens behind a chunk of positions share it by parts, and must give what each gives alone.
          const text = prompts.flatMap(({ ids }) => ids).slice(0, CHUNK + 3);
          const [few, single] = [newSequence(), newSequence()];
          for (const sequence of [few, single]) await sequence.forward(text.slice(0, CHUNK - 4), 'last');
          const rows = await few.forward(text.slice(CHUNK - 4), 'all');
          for (const [row, id] of text.slice(CHUNK - 4).entries()) {
            const alone = await single.forward([id], 'last');
            expect(rows.subarray(row * needs.vocab, (row + 1) * needs.vocab)).toEqual(alone);
          }
          few.free();
          single.free();
        } finally {
          await executable.close();
        }
      }
    }
  }, 300_000);

  it.runIf(name === 'packed')(
    'has the same logits by table lookups, at once and token by token',
    async () => {
      const output = join(scratch, 'lookups');
      const lookups = await openArtifact(await compile(checkpoint, { output, family: 'lut', context: 64 }));
      const products = lookups.plan.kernels.filter(({ op }) => op === 'lowbit.matmul');
      expect(new Set(products.map(({ family }) => family))).toEqual(new Set(['lut']));
      const { code, context, needs } = lookups.manifest;
      for (const candidate of candidates('auto', code, await host)) {
        const executable = await startExecutable({ path: output, needs, code }, candidate, 2);
        const scheduler = new StepScheduler(executable);
        try {
          for (const [i, { ids, greedy_ids, smallest_margin }] of prompts.entries()) {
            if (i % 7 !== 0) continue;
            const what = `${candidate.machine}, prompt ${i}`;
            const [whole, single] = [1, 2].map(() => new Sequence(scheduler, context, needs.vocab));
            expect(await whole!.forward(ids, 'last'), what).toEqual(seen.get(`${i}`));
            let logits = new Float32Array(0) as Float32Array;
            for (const id of ids) logits = await single!.forward([id], 'last');
            expect(logits, what).toEqual(seen.get(`${i}`));
            const generated: number[] = [];
            for (const expected of greedy_ids) {
              generated.push(argmax(logits));
              logits = await single!.forward([expected], 'last');
            }
            if (smallest_margin > SURE_MARGIN) expect(generated, what).toEqual(greedy_ids);
            whole!.free();
            single!.free();
          }
        } finally {
          await executable.close();
        }
      }
    },
    300_000,
  );
});
