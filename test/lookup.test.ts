/**
 * Models whose weights are looked up (family `lut`), from import to logits in the interpreter: the same logits as by
 * multiplying.
 */
import { describe, expect, it } from 'vitest';
import type { Checkpoint } from '../src/checkpoint/checkpoint.ts';
import { PLANE_BITS } from '../src/encodings/bit-planes.ts';
import { ReferenceExecutor } from '../src/graph/reference.ts';
import { ReferenceCache } from '../src/graph/step.ts';
import { runProgram } from '../src/loops/interpret.ts';
import { gptqModels } from '../src/models/group/testing.ts';
import { importModel } from '../src/models/import.ts';
import type { WeightOptions } from '../src/models/quantization.ts';
import { memoryCheckpoint, SMALL, smallConfig, smallTensors } from '../src/models/testing.ts';
import { exactValues } from '../src/models/weights.ts';
import { runPasses } from '../src/passes/pipeline.ts';
import { scheduleProgram } from '../src/plan/lower.ts';
import { planModel } from '../src/plan/plan.ts';
import type { PlanOptions } from '../src/plan/types.ts';
import { C_MACHINES } from '../src/targets/c/machines.ts';
import { packedWeights } from './support/packed-weights.ts';

const SHAPE = { ...SMALL, hidden: 64, intermediate: 96, heads: 4, kvHeads: 2, headDim: 16 };
const CONTEXT = 32;
const PROMPT = [1, 5, 9, 2];

function llama(shape: typeof SHAPE): Checkpoint {
  const config = { ...smallConfig(shape), model_type: 'llama', architectures: ['LlamaForCausalLM'] };
  return memoryCheckpoint(smallTensors({ weights: 'masters', shape }), config);
}

const checkpoint = llama(SHAPE);

type Tables = NonNullable<PlanOptions['tables']>;

/** Logits of the last token of the prompt, which comes `chunk` tokens at a time; without tables, by multiplying. */
async function logits(
  model: Checkpoint,
  options: WeightOptions,
  tables: Tables | undefined,
  chunk = PROMPT.length,
): Promise<Float32Array> {
  const { graph: imported } = importModel(model, { context: CONTEXT, ...options });
  const graph = runPasses(
    imported,
    tables === undefined ? {} : { lookup: PLANE_BITS, ternary: 'bit-planes' },
  );
  const form = { context: CONTEXT, block: 16, cacheElem: 'f32', ...(tables && { tables }) } as const;
  const plan = planModel(graph, form);
  const wanted = tables === 'bits' ? 'popcount' : 'lut';
  const products = plan.kernels.filter(({ op }) => op.startsWith('lowbit.matmul'));
  const lookups = products.filter(({ family }) => family === wanted);
  expect(lookups.length).toBe(tables === undefined ? 0 : products.length);
  const program = scheduleProgram(plan, C_MACHINES[3]!);
  const weights = await packedWeights(plan, graph, model);
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

/** The logits of the graph's operators in float64. */
async function referenceLogits(model: Checkpoint, options: WeightOptions): Promise<Float64Array> {
  const { graph } = importModel(model, { context: CONTEXT, ...options });
  const executor = await ReferenceExecutor.create(graph, (constant) => exactValues(constant, model));
  const tokens = Int32Array.from(PROMPT);
  const all = executor.forward(tokens, { position: 0, logits: 'all', cache: new ReferenceCache() });
  return Float64Array.from(all.slice(-SHAPE.vocab));
}

/** Normalized mean squared error. */
function nmse(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  const sum = (of: (i: number) => number) =>
    Array.from(expected).reduce((total, _, i) => total + of(i) ** 2, 0);
  return sum((i) => found[i]! - expected[i]!) / sum((i) => expected[i]!);
}

describe('a model by table lookups', () => {
  it.each([1, 4] as const)('has the logits of multiplications, of %i bits', async (bits) => {
    const options = { bits, group: 32 } as const;
    const expected = await logits(checkpoint, options, undefined);
    expect(await logits(checkpoint, options, 'exact')).toEqual(expected);
    expect(await logits(checkpoint, options, 'exact', 1)).toEqual(expected);
  });

  it('has them where weights are trits, as of BitNet', async () => {
    const quantization = { quant_method: 'bitnet', modules_to_not_convert: ['lm_head'] };
    const config = { ...smallConfig(SHAPE), model_type: 'llama', architectures: ['LlamaForCausalLM'] };
    const tensors = smallTensors({ weights: { packedScale: 8 }, shape: SHAPE });
    const bitnet = memoryCheckpoint(tensors, { ...config, quantization_config: quantization });
    const expected = await logits(bitnet, {}, undefined);
    expect(await logits(bitnet, {}, 'exact')).toEqual(expected);
    expect(await logits(bitnet, {}, 'exact', 1)).toEqual(expected);
  });

  it('has them by counting bits, of 2 bits', async () => {
    const options = { bits: 2, group: 32 } as const;
    const expected = await logits(checkpoint, options, undefined);
    expect(await logits(checkpoint, options, 'bits')).toEqual(expected);
    expect(await logits(checkpoint, options, 'bits', 1)).toEqual(expected);
  });

  it.each([
    ['f32', 1e-9, 5e-3],
    // Half way between two halves, one goes up and the other down.
    ['f16', 5e-3, 5e-3],
    ['int8', 1e-9, 5e-3],
  ] as const)(
    'has those of its float64 reference with tables of bytes from %s',
    async (activations, exact, rounded) => {
      const options = { bits: 4, group: 32, byteSums: true, activations } as const;
      const found = await logits(checkpoint, options, 'int8');
      expect(await logits(checkpoint, options, 'int8', 1)).toEqual(found);
      expect(await logits(checkpoint, options, undefined)).toEqual(found);
      expect(nmse(found, await referenceLogits(checkpoint, options))).toBeLessThan(exact);
      // What tables of bytes cost, of a small model: 6e-5 for each of the products that a logit goes through.
      const fine = await referenceLogits(checkpoint, { bits: 4, group: 32 });
      expect(nmse(found, fine)).toBeLessThan(rounded);
    },
  );

  it('has nearly those by means of lookups, the same at once and one by one', async () => {
    const options = { bits: 4, group: 32, byteSums: true } as const;
    const expected = await logits(checkpoint, options, undefined);
    const found = await logits(checkpoint, options, 'fast');
    expect(nmse(found, expected)).toBeLessThan(0.05);
    expect(found).not.toEqual(expected);
    expect(await logits(checkpoint, options, 'fast', 1)).toEqual(found);
  });
});

describe('every kind of scales by table lookups', () => {
  const wide = llama({ ...SHAPE, intermediate: 320, layers: 1 });

  it.each<[string, WeightOptions]>([
    ['one of the whole matrix', { bits: 'ternary' }],
    ['one a row, with zeros', { bits: 3, group: 'row' }],
    ['one a row, symmetric', { bits: 2, group: 'row', symmetric: true }],
    ['groups of 32, symmetric', { bits: 1, group: 32, symmetric: true }],
    ['groups of 64, with zeros', { bits: 4, group: 64 }],
    ['groups of 128, symmetric', { bits: 4, group: 128, symmetric: true }],
    ['groups of 256, with zeros', { bits: 2, group: 256 }],
  ])('%s: the logits of multiplications', async (_, options) => {
    const expected = await logits(wide, options, undefined);
    expect(expected.every(Number.isFinite)).toBe(true);
    expect(await logits(wide, options, 'exact', 1)).toEqual(expected);
    const bytes = { ...options, byteSums: true };
    expect(await logits(wide, bytes, 'int8', 1)).toEqual(await logits(wide, bytes, undefined, 3));
  });
});

describe('GPTQ with columns in an order of their own (desc_act)', () => {
  it.each([2, 4])('is looked up in that order, of %i bits', async (bits) => {
    const [coded, floats] = gptqModels(bits, true);
    const expected = await logits(coded, {}, undefined);
    expect(await logits(coded, {}, 'exact', 1)).toEqual(expected);
    const bytes = { byteSums: true };
    const found = await logits(coded, bytes, 'int8', 1);
    expect(found).toEqual(await logits(coded, bytes, undefined));
    // The order is right only if these are the logits of the same weights in floats.
    const float = await referenceLogits(floats, {});
    expect(nmse(expected, float)).toBeLessThan(1e-6);
    expect(nmse(found, float)).toBeLessThan(1e-2);
  });
});
