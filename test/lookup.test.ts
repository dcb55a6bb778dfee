/** A model whose weights are looked up (family `lut`), in the interpreter: the same logits as by multiplying. */
import { describe, expect, it } from 'vitest';
import type { Graph } from '../src/graph/ir.ts';
import { runProgram } from '../src/loops/interpret.ts';
import { importModel } from '../src/models/import.ts';
import { memoryCheckpoint, SMALL, smallConfig, smallTensors } from '../src/models/testing.ts';
import { runPasses } from '../src/passes/pipeline.ts';
import { scheduleProgram } from '../src/plan/lower.ts';
import { planModel } from '../src/plan/plan.ts';
import { tunedForms } from '../src/plan/products.ts';
import type { Plan, PlanOptions, TunedSchedule } from '../src/plan/types.ts';
import { C_MACHINES } from '../src/targets/c/machines.ts';
import { packedWeights } from './support/packed-weights.ts';

const SHAPE = { ...SMALL, hidden: 64, intermediate: 96, heads: 4, kvHeads: 2, headDim: 16 };
const CONFIG = { ...smallConfig(SHAPE), model_type: 'llama', architectures: ['LlamaForCausalLM'] };
const checkpoint = memoryCheckpoint(smallTensors({ weights: 'masters', shape: SHAPE }), CONFIG);
const CONTEXT = 32;
const OPTIONS: PlanOptions = { context: CONTEXT, block: 16, cacheElem: 'f32' };
const PROMPT = [1, 5, 9, 2, 7, 3];

/** Logits of the last token; at first `chunk` tokens at a time. */
async function logits(
  bits: 1 | 2 | 3 | 4,
  tables: PlanOptions['tables'] | undefined,
  chunk: number,
): Promise<Float32Array> {
  const { graph: imported } = importModel(checkpoint, { bits, group: 32, context: CONTEXT });
  const graph = runPasses(imported, { lookup: tables === undefined ? [] : [bits] });
  const options = { ...OPTIONS, ...(tables && { tables }) };
  const plan = planModel(graph, options);
  const wanted = tables === 'bits' ? 'popcount' : 'lut';
  const lookups = plan.kernels.filter(({ family }) => family === wanted).length;
  expect(lookups > 0).toBe(tables !== undefined);
  return runPlan(graph, plan, chunk);
}

async function runPlan(graph: Graph, plan: Plan, chunk: number): Promise<Float32Array> {
  const program = scheduleProgram(plan, C_MACHINES[3]!);
  const weights = await packedWeights(plan, graph, checkpoint);
  const buffers = {
    weights,
    arena: new Uint8Array(plan.arenaBytes).fill(0xff),
    cache: new Uint8Array(plan.cacheBytes).fill(0xff),
    logits: new Uint8Array(plan.logitsStride * 4),
  };
  for (let position = 0; position < PROMPT.length; position += chunk) {
    const tokens = Int32Array.from(PROMPT.slice(position, position + chunk));
    runProgram(program, { buffers, sequences: [{ tokens, position, cache: 0, logits: 'last' }], threads: 2 });
  }
  return new Float32Array(buffers.logits.buffer, 0, plan.vocab).slice();
}

function nmse(found: Float32Array, expected: Float32Array): number {
  const sum = (of: (i: number) => number) => expected.reduce((total, _, i) => total + of(i) ** 2, 0);
  return sum((i) => found[i]! - expected[i]!) / sum((i) => expected[i]!);
}

describe('a model by table lookups', () => {
  it.each([1, 2, 3, 4] as const)('has the logits of multiplications, of %i bits', async (bits) => {
    const expected = await logits(bits, undefined, PROMPT.length);
    expect(await logits(bits, 'exact', PROMPT.length)).toEqual(expected);
    expect(await logits(bits, 'exact', 1)).toEqual(expected);
  });

  it('has them by counting bits, of 2 bits', async () => {
    const expected = await logits(2, undefined, PROMPT.length);
    expect(await logits(2, 'bits', PROMPT.length)).toEqual(expected);
    expect(await logits(2, 'bits', 1)).toEqual(expected);
  });

  it('has them where tuning chose a family for each product', async () => {
    const { graph: imported } = importModel(checkpoint, { bits: 2, group: 32, context: CONTEXT });
    const plain = runPasses(imported, {});
    const usual = planModel(plain, OPTIONS);
    const products = usual.kernels.filter(({ op }) => op === 'lowbit.matmul.group');
    const rows = [...new Set(products.map(({ shape }) => Number(shape.m)))];
    const formOf = (m: number) => (['bits', 'exact', undefined] as const)[rows.indexOf(m) % 3];
    const tuned = products.flatMap(({ op, shape }): TunedSchedule[] => {
      const tables = formOf(Number(shape.m));
      if (tables === undefined) return [];
      const family = tables === 'bits' ? 'popcount' : 'lut';
      const own = { ...shape, encoding: 'bit-planes', tables };
      return [{ op, family, shape: own, machine: 'c:avx2', schedule: {} }];
    });
    const { encodings, tables } = tunedForms(plain, OPTIONS, new Set(), tuned);
    const graph = runPasses(imported, { encodings });
    const plan = planModel(graph, { ...OPTIONS, tablesOf: tables });
    const families = plan.kernels
      .filter(({ op }) => op === 'lowbit.matmul.group')
      .map(({ family, shape }) => [Number(shape.m), family]);
    const wanted = { bits: 'popcount', exact: 'lut' };
    for (const [m, family] of families) {
      const form = formOf(Number(m));
      expect([m, family]).toEqual([m, form === undefined ? 'mad' : wanted[form]]);
    }
    expect(new Set(families.map(([, family]) => family)).size).toBe(3);
    const expected = await logits(2, undefined, PROMPT.length);
    expect(await runPlan(graph, plan, PROMPT.length)).toEqual(expected);
    expect(await runPlan(graph, plan, 1)).toEqual(expected);
  });

  it('has nearly those with rounded tables, the same at once and one by one', async () => {
    const expected = await logits(4, undefined, PROMPT.length);
    for (const [tables, bound] of [
      ['int8', 5e-3],
      ['fast', 0.1],
    ] as const) {
      const found = await logits(4, tables, PROMPT.length);
      expect(nmse(found, expected)).toBeLessThan(bound);
      expect(found).not.toEqual(expected);
      expect(await logits(4, tables, 1)).toEqual(found);
    }
  });
});
