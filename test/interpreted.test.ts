/**
 * The embedded model in the loop IR's interpreter: the judge of all targets agrees with an independent
 * float64 implementation, and computes a prompt the same way at once and token by token.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Checkpoint } from '../src/checkpoint/checkpoint.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { runProgram } from '../src/loops/interpret.ts';
import type { Program } from '../src/loops/ir.ts';
import { importModel } from '../src/models/import.ts';
import { runPasses } from '../src/passes/pipeline.ts';
import { scheduleProgram } from '../src/plan/lower.ts';
import { planModel } from '../src/plan/plan.ts';
import type { Plan } from '../src/plan/types.ts';
import { C_MACHINES } from '../src/targets/c/machines.ts';
import { packedWeights } from './support/packed-weights.ts';

const CONTEXT = 64;

interface Reference {
  readonly prompts: readonly { readonly ids: number[]; readonly logits_last: readonly [number, number][] }[];
}

let checkpoint: Checkpoint;
let plan: Plan;
let program: Program;
let weights: Uint8Array;

beforeAll(async () => {
  checkpoint = await openCheckpoint('models/tiny-bitnet');
  const graph = runPasses(importModel(checkpoint, { context: CONTEXT }).graph);
  plan = planModel(graph, { context: CONTEXT, block: 16, cacheElem: 'f32' });
  program = scheduleProgram(plan, C_MACHINES[0]!);
  weights = await packedWeights(plan, graph, checkpoint);
});

afterAll(() => checkpoint.close());

/** Logits of the last token, after feeding the chunks; memory starts as NaNs. */
function run(chunks: readonly (readonly number[])[], threads: number): Float32Array {
  const buffers = {
    weights,
    arena: new Uint8Array(plan.arenaBytes).fill(0xff),
    cache: new Uint8Array(plan.cacheBytes).fill(0xff),
    logits: new Uint8Array(plan.logitsStride * 4),
  };
  let pos = 0;
  for (const chunk of chunks) {
    const sequence = { tokens: Int32Array.from(chunk), position: pos, cache: 0, logits: 'last' } as const;
    runProgram(program, { buffers, sequences: [sequence], threads });
    pos += chunk.length;
  }
  return new Float32Array(buffers.logits.buffer, 0, plan.vocab);
}

describe('the embedded model in the interpreter', () => {
  const reference = JSON.parse(readFileSync('test/data/reference/tiny-bitnet.json', 'utf8')) as Reference;
  const { ids, logits_last: expected } = reference.prompts[0]!;

  it('agrees with the float64 reference, and does not depend on batching or threads', () => {
    const whole = run([ids], 1);
    // f32 against float64, on a prompt where no activation is near a rounding tie.
    for (const [id, logit] of expected) expect(Math.abs(whole[id]! - logit)).toBeLessThan(1e-4);
    expect(run([ids.slice(0, 3), ids.slice(3, 4), ids.slice(4)], 3)).toEqual(whole);
  });
});
