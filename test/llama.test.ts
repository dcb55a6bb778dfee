/** Llamas whose weights are floats, as they are and rounded to codes. */
import { describe, expect, it } from 'vitest';
import { ReferenceExecutor } from '../src/graph/reference.ts';
import { ReferenceCache } from '../src/graph/step.ts';
import { type ImportOptions, importModel } from '../src/models/import.ts';
import { memoryCheckpoint, SMALL, smallConfig, smallTensors } from '../src/models/testing.ts';
import { exactValues } from '../src/models/weights.ts';
import { runPasses } from '../src/passes/pipeline.ts';

const SHAPE = { ...SMALL, hidden: 64, intermediate: 96, heads: 4, kvHeads: 2, headDim: 16 };
const TENSORS = smallTensors({ weights: 'masters', shape: SHAPE });
const CONFIG = { ...smallConfig(SHAPE), model_type: 'llama', architectures: ['LlamaForCausalLM'] };
const llama = () => memoryCheckpoint(TENSORS, CONFIG);

async function logits(options: ImportOptions, fused = false): Promise<Float64Array> {
  const checkpoint = llama();
  const { graph } = importModel(checkpoint, options);
  const final = fused ? runPasses(graph) : graph;
  const model = await ReferenceExecutor.create(final, (constant) => exactValues(constant, checkpoint));
  const cache = new ReferenceCache();
  return model.forward(Int32Array.of(1, 5, 9, 2), { position: 0, logits: 'all', cache });
}

function nmse(found: Float64Array, expected: Float64Array): number {
  const sum = (of: (i: number) => number) => expected.reduce((total, _, i) => total + of(i) ** 2, 0);
  return sum((i) => found[i]! - expected[i]!) / sum((i) => expected[i]!);
}

const ops = (options: ImportOptions) =>
  new Set(runPasses(importModel(llama(), options).graph).nodes.map(({ op }) => op));

describe('llama in floats', () => {
  it('becomes products with the stored weights', () => {
    const { info } = importModel(llama());
    expect(info).toMatchObject({ architecture: 'llama', quantization: { form: 'float' } });
    expect(info.parameters.projections).toBe(2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96));
    expect(ops({})).toEqual(
      new Set(['embedding', 'rmsNorm', 'matmul', 'attention.packed', 'add', 'gate.packed', 'selectOutputs']),
    );
  });

  it('becomes products with codes', () => {
    expect(ops({ bits: 4, group: 32 })).toEqual(
      new Set([
        'embedding',
        'rmsNorm.quantize.group',
        'quantize.group',
        'lowbit.matmul.group',
        'lowbit.matmul.group.add',
        'attention.packed',
        'gate.packed',
        'selectOutputs',
        'rmsNorm',
        'matmul',
      ]),
    );
    expect(importModel(llama(), { bits: 4, group: 32 }).info.quantization).toEqual({
      form: 'groups',
      format: 'round',
      bits: 4,
      group: 32,
      symmetric: false,
      activations: 'int16',
    });
  });

  it('computes the same before and after passes', async () => {
    for (const options of [{}, { bits: 3, group: 32 }, { bits: 2, group: 'row', symmetric: true }] as const) {
      expect(nmse(await logits(options, true), await logits(options))).toBeLessThan(1e-20);
    }
  });

  it('loses what its bits say, and next to nothing by activations of int16', async () => {
    const exact = await logits({});
    const errors = await Promise.all(
      ([2, 3, 4, 8] as const).map(async (bits) => nmse(await logits({ bits, group: 32 }), exact)),
    );
    // Uniform weights: each bit more is 6 dB. Attention makes more of an error than it is in a product.
    for (const [i, bits] of [2, 3, 4, 8].entries()) {
      expect(errors[i]!).toBeGreaterThan(0.1 * 4 ** -bits);
      expect(errors[i]!).toBeLessThan(60 * 4 ** -bits);
    }
    const eight = await logits({ bits: 8, group: 32, activations: 'int16' });
    const rough = await logits({ bits: 8, group: 32, activations: 'int8' });
    expect(nmse(rough, eight)).toBeGreaterThan(1e-6);
    expect(nmse(rough, eight)).toBeLessThan(1e-3);
  });

  it('rounds to 1 bit without zero points, unless they are asked for', () => {
    const zeros = (options: ImportOptions) =>
      importModel(llama(), options).graph.constants.filter(({ source }) => source.kind === 'zeros').length;
    expect(zeros({ bits: 1 })).toBe(0);
    expect(zeros({ bits: 1, symmetric: false })).toBeGreaterThan(0);
    expect(zeros({ bits: 2 })).toBeGreaterThan(0);
  });

  it.each([
    [{ bits: 5 }, 'rounded to 1, 2, 3, 4 or 8 bits, or ternary, not 5'],
    [{ bits: 'ternary', group: 48 }, 'a multiple of 32 columns, or row, not 48'],
    [{ bits: 'ternary', symmetric: false }, 'ternary weights have no zero points'],
    [{ bits: 4, group: 48 }, 'a multiple of 32 columns, or row, not 48'],
  ])('refuses %j', (options, message) => {
    expect(() => importModel(llama(), options as ImportOptions)).toThrow(message);
  });

  it('refuses to round what is quantized', () => {
    const packed = smallTensors({ weights: { packedScale: 2 } });
    const config = {
      ...smallConfig(SMALL),
      model_type: 'llama',
      quantization_config: { quant_method: 'bitnet' },
    };
    expect(() => importModel(memoryCheckpoint(packed, config), { bits: 4 })).toThrow('are quantized already');
    expect(() => importModel(memoryCheckpoint(packed, config), { bits: 'ternary' })).toThrow(
      'are quantized already',
    );
  });
});
