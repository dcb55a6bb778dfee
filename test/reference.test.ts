/**
 * The proof at graph level: both forms of the embedded model, imported and run by the float64 reference
 * executor, compute what an independent float64 implementation does. `test/data/README.md` says what is
 * there, and why a few int8 ties make exceptions.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Checkpoint } from '../src/checkpoint/checkpoint.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import type { Observer } from '../src/graph/evaluate.ts';
import { ReferenceExecutor } from '../src/graph/reference.ts';
import { ReferenceCache, type Tensor } from '../src/graph/step.ts';
import { importModel } from '../src/models/import.ts';
import { exactValues } from '../src/models/weights.ts';
import { runPasses } from '../src/passes/pipeline.ts';
import { createTokenizer } from '../src/text/tokenizer.ts';

interface Reference {
  readonly perplexity: number;
  readonly perplexity_tokens: number;
  readonly prompts: readonly {
    readonly prompt: string;
    readonly ids: readonly number[];
    readonly logits_last: readonly (readonly [number, number])[];
    readonly greedy_ids: readonly number[];
    readonly smallest_margin: number;
  }[];
  readonly hidden_norms: { readonly prompt: string; readonly norms: readonly (readonly number[])[] };
}

const readJson = (path: string): unknown => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'));
const heldoutNll = readJson('data/reference/heldout-nll.json') as Readonly<Record<string, number[]>>;
const heldout = readFileSync(new URL('data/heldout.txt', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n');

const VOCAB = 1024;
const BEGIN = 1019;
const END = 1020;

/** Two correct float64 implementations differ by less, but where a tie goes either way. */
const FLOAT_NOISE = 1e-10;
/** What one int8 step more or less makes of a logit. */
const TIE_NOISE = 0.3;

function rows({ shape, data }: Tensor): number[][] {
  const width = shape[1]!;
  return Array.from({ length: shape[0]! }, (_, r) => Array.from(data.slice(r * width, (r + 1) * width)));
}

/** Whether a value to be quantized is so near to half way between two integers that rounding is chance. */
function hasTie(tensor: Tensor): boolean {
  return rows(tensor).some((row) => {
    const inverse = 127 / Math.max(1e-5, ...row.map(Math.abs));
    return row.some((x) => Math.abs(Math.abs((x * inverse) % 1) - 0.5) < 1e-9);
  });
}

const argmax = (logits: Float64Array) => logits.reduce((best, x, i) => (x > logits[best]! ? i : best), 0);

function negativeLogLikelihood(logits: Float64Array, ids: readonly number[]): number {
  let sum = 0;
  for (let t = 0; t + 1 < ids.length; t++) {
    const row = logits.subarray(t * VOCAB, (t + 1) * VOCAB);
    const largest = row[argmax(row)]!;
    const total = row.reduce((z, x) => z + Math.exp(x - largest), 0);
    sum += Math.log(total) + largest - row[ids[t + 1]!]!;
  }
  return sum;
}

describe.each([
  { name: 'tiny-bitnet', folder: '../models/tiny-bitnet', half: 0 },
  { name: 'tiny-bitnet-bf16', folder: 'data/tiny-bitnet-bf16', half: 1 },
])('$name', ({ name, folder, half }) => {
  const reference = readJson(`data/reference/${name}.json`) as Reference;
  // Float64 in JavaScript takes its time: each form of the model gets every second prompt.
  const prompts = reference.prompts.filter((_, i) => i % 2 === half);
  let checkpoint: Checkpoint;
  /** As imported, and after all passes. */
  let plain: ReferenceExecutor;
  let fused: ReferenceExecutor;

  beforeAll(async () => {
    checkpoint = await openCheckpoint(new URL(folder, import.meta.url).pathname);
    const { graph } = importModel(checkpoint);
    const execute = (g: typeof graph) => ReferenceExecutor.create(g, (c) => exactValues(c, checkpoint));
    plain = await execute(graph);
    fused = await execute(runPasses(graph));
  });
  afterAll(() => checkpoint.close());

  function forward(model: ReferenceExecutor, ids: readonly number[], observe?: Observer): Float64Array {
    const cache = new ReferenceCache();
    const step = { position: 0, logits: 'all' as const, cache };
    return model.forward(Int32Array.from(ids), observe === undefined ? step : { ...step, observe });
  }

  it('has the hidden states of the reference', () => {
    const { prompt, norms } = reference.hidden_norms;
    const { ids } = reference.prompts.find((p) => p.prompt === prompt)!;
    const found: number[][] = [];
    forward(plain, ids, (value, tensor) => {
      if (!/^(embedded|l\d+\.out|norm)$/.test(value.name)) return;
      found.push(rows(tensor).map((row) => Math.sqrt(row.reduce((sum, x) => sum + x * x, 0))));
    });
    expect(found.length).toBe(norms.length);
    for (const [layer, positions] of norms.entries()) {
      for (const [t, norm] of positions.entries()) {
        expect(Math.abs(found[layer]![t]! / norm - 1)).toBeLessThan(1e-12);
      }
    }
  });

  it('has its logits and greedy continuations', () => {
    let withoutTies = 0;
    for (const { prompt, ids, logits_last, greedy_ids, smallest_margin } of prompts) {
      const cache = new ReferenceCache();
      let ties = false;
      let logits = plain.forward(Int32Array.from(ids), {
        position: 0,
        logits: 'last',
        cache,
        observe(value, tensor) {
          if (/Norm$/.test(value.name)) ties ||= hasTie(tensor);
        },
      });
      if (!ties) withoutTies++;
      for (const [id, expected] of logits_last) {
        expect(Math.abs(logits[id]! - expected), prompt).toBeLessThan(ties ? TIE_NOISE : FLOAT_NOISE);
      }
      if (!ties) {
        const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, logits_last.length);
        expect(order).toEqual(logits_last.map(([id]) => id));
      }
      if (smallest_margin < TIE_NOISE || greedy_ids.length > 12) continue;
      const generated: number[] = [];
      for (let position = ids.length; generated.length < greedy_ids.length; position++) {
        const token = argmax(logits);
        generated.push(token);
        if (generated.length === greedy_ids.length) break;
        logits = plain.forward(Int32Array.of(token), { position, logits: 'last', cache });
      }
      expect(generated, prompt).toEqual(greedy_ids);
    }
    expect(withoutTies).toBeGreaterThanOrEqual(6);
  });

  it('computes bit for bit the same after the passes', () => {
    for (const { ids } of prompts.slice(0, 2)) {
      expect(forward(fused, ids)).toEqual(forward(plain, ids));
    }
  });

  it('has the likelihoods that add up to the perplexity of the reference', () => {
    const perLine = heldoutNll[name]!;
    expect(perLine.length).toBe(heldout.length);
    const total = perLine.reduce((sum, nll) => sum + nll, 0);
    const perplexity = Math.exp(total / reference.perplexity_tokens);
    expect(Math.abs(perplexity / reference.perplexity - 1)).toBeLessThan(1e-5);
    const tokenizer = createTokenizer(checkpoint);
    for (const line of [0, 150]) {
      const ids = tokenizer.encode(heldout[line]!);
      const text = [...(ids[0] === BEGIN ? ids : [BEGIN, ...ids]), END];
      const nll = negativeLogLikelihood(forward(fused, text.slice(0, -1)), text);
      expect(Math.abs(nll / perLine[line]! - 1)).toBeLessThan(1e-8);
    }
  });
});
