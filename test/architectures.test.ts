/**
 * Every architecture, on a small checkpoint of random weights with the names and the config.json of published ones:
 * its graph computes what an independent float64 implementation of the definition does, and so does its program.
 */
import { describe, expect, it } from 'vitest';
import type { Checkpoint } from '../src/checkpoint/checkpoint.ts';
import type { Graph } from '../src/graph/ir.ts';
import { ReferenceExecutor } from '../src/graph/reference.ts';
import { ReferenceCache } from '../src/graph/step.ts';
import { runProgram } from '../src/loops/interpret.ts';
import { type ImportOptions, importModel } from '../src/models/import.ts';
import { memoryCheckpoint } from '../src/models/testing.ts';
import { exactValues } from '../src/models/weights.ts';
import { runPasses } from '../src/passes/pipeline.ts';
import { scheduleProgram } from '../src/plan/lower.ts';
import { planModel } from '../src/plan/plan.ts';
import { C_MACHINES } from '../src/targets/c/machines.ts';
import { packedWeights } from './support/packed-weights.ts';
import {
  type Architecture,
  asTensors,
  type Matrix,
  publishedForward,
  randomWeights,
  SHAPE,
  type Weights,
} from './support/published.ts';

const LLAMA3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 32,
};
const LONG = {
  type: 'longrope',
  short_factor: [1, 1.1, 1.2, 1.4, 2],
  long_factor: [1.5, 2, 3, 5, 8],
};
const GEMMA = {
  hidden_activation: 'gelu_pytorch_tanh',
  rope_theta: 1000000,
  rope_local_base_freq: 10000,
  query_pre_attn_scalar: 17,
  sliding_window: 5,
  sliding_window_pattern: 3,
};

interface Case {
  readonly name: string;
  readonly architecture: Architecture;
  readonly className: string;
  readonly config?: Readonly<Record<string, unknown>>;
  readonly context?: number;
}

const CASES: readonly Case[] = [
  { name: 'llama', architecture: 'llama', className: 'LlamaForCausalLM' },
  {
    name: 'llama 3 with scaled positions and a tied head',
    architecture: 'llama',
    className: 'LlamaForCausalLM',
    config: { rope_scaling: LLAMA3, rope_theta: 500000, tie_word_embeddings: true },
  },
  {
    name: 'llama with biases and linear scaling',
    architecture: 'llama',
    className: 'LlamaForCausalLM',
    config: { attention_bias: true, mlp_bias: true, rope_scaling: { type: 'linear', factor: 4 } },
  },
  {
    name: 'mistral with a window',
    architecture: 'mistral',
    className: 'MistralForCausalLM',
    config: { sliding_window: 6 },
  },
  {
    name: 'mistral without',
    architecture: 'mistral',
    className: 'MistralForCausalLM',
    config: { sliding_window: null },
  },
  {
    name: 'qwen2',
    architecture: 'qwen2',
    className: 'Qwen2ForCausalLM',
    config: { use_sliding_window: false, sliding_window: 4, tie_word_embeddings: true },
  },
  {
    name: 'qwen2 with a window in some layers and YaRN',
    architecture: 'qwen2',
    className: 'Qwen2ForCausalLM',
    config: {
      use_sliding_window: true,
      sliding_window: 4,
      max_window_layers: 1,
      rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 32 },
    },
  },
  {
    name: 'qwen3',
    architecture: 'qwen3',
    className: 'Qwen3ForCausalLM',
    config: { attention_bias: false, rope_theta: 1000000, tie_word_embeddings: true },
  },
  {
    name: 'phi3',
    architecture: 'phi3',
    className: 'Phi3ForCausalLM',
    config: { sliding_window: 2047, original_max_position_embeddings: 64 },
  },
  {
    name: 'phi3 with LongRoPE, within the context it was trained on',
    architecture: 'phi3',
    className: 'Phi3ForCausalLM',
    config: { original_max_position_embeddings: 16, rope_scaling: LONG, sliding_window: 262144 },
  },
  {
    name: 'phi3 with LongRoPE, beyond',
    architecture: 'phi3',
    className: 'Phi3ForCausalLM',
    config: { original_max_position_embeddings: 16, rope_scaling: LONG },
    context: 40,
  },
  {
    name: 'gemma3',
    architecture: 'gemma3_text',
    className: 'Gemma3ForCausalLM',
    config: GEMMA,
  },
];

const TOKENS = [1, 5, 36, 9, 22, 3, 3, 17, 30, 8, 11, 2, 25];

function checkpointOf({ architecture, className, config }: Case): {
  readonly checkpoint: Checkpoint;
  readonly expected: (context?: number) => readonly (readonly number[])[];
  /** With the weights of projections rounded to trits. */
  readonly ternary: (context?: number) => readonly (readonly number[])[];
} {
  const full = {
    ...SHAPE,
    model_type: architecture,
    architectures: [className],
    tie_word_embeddings: architecture === 'gemma3_text',
    ...config,
  };
  const weights = randomWeights(architecture, full);
  return {
    checkpoint: memoryCheckpoint(asTensors(weights), full),
    expected: (context) => publishedForward(architecture, full, weights, TOKENS, context),
    ternary: (context) => publishedForward(architecture, full, absMean(weights), TOKENS, context),
  };
}

/** Every projection as BitNet b1.58 rounds it: mean(|w|) * clamp(round(w / mean(|w|)), -1, 1). */
function absMean(weights: Weights): Weights {
  const rounded = [...weights].map(([name, matrix]): [string, Matrix] => {
    if (!name.endsWith('_proj.weight')) return [name, matrix];
    const mean = matrix.data.reduce((sum, w) => sum + Math.abs(w), 0) / matrix.data.length;
    return [
      name,
      { ...matrix, data: matrix.data.map((w) => mean * Math.max(-1, Math.min(1, Math.round(w / mean)))) },
    ];
  });
  return new Map(rounded);
}

async function referenceLogits(graph: Graph, checkpoint: Checkpoint): Promise<Float64Array> {
  const model = await ReferenceExecutor.create(graph, (constant) => exactValues(constant, checkpoint));
  const cache = new ReferenceCache();
  // In two steps, so that the second one reads what the first has stored.
  const first = model.forward(Int32Array.from(TOKENS.slice(0, 9)), { position: 0, logits: 'all', cache });
  const rest = model.forward(Int32Array.from(TOKENS.slice(9)), { position: 9, logits: 'all', cache });
  return Float64Array.of(...first, ...rest);
}

async function programLogits(graph: Graph, checkpoint: Checkpoint): Promise<Float32Array> {
  const plan = planModel(graph, { context: 16, block: 16, cacheElem: 'f32' });
  const program = scheduleProgram(plan, C_MACHINES[0]!);
  const weights = await packedWeights(plan, graph, checkpoint);
  const buffers = {
    weights,
    arena: new Uint8Array(plan.arenaBytes).fill(0xff),
    cache: new Uint8Array(plan.cacheBytes).fill(0xff),
    logits: new Uint8Array(TOKENS.length * plan.logitsStride * 4),
  };
  const sequence = { tokens: Int32Array.from(TOKENS), position: 0, cache: 0, logits: 'all' } as const;
  runProgram(program, { buffers, sequences: [sequence], threads: 2 });
  const stored = new Float32Array(buffers.logits.buffer);
  return Float32Array.from({ length: TOKENS.length * plan.vocab }, (_, i) => {
    const row = Math.floor(i / plan.vocab);
    return stored[row * plan.logitsStride + (i % plan.vocab)]!;
  });
}

/** The largest difference, in terms of the largest expected magnitude. */
function errorOf(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(found.length).toBe(expected.length);
  let [worst, largest] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Math.abs(found[i]! - expected[i]!));
    largest = Math.max(largest, Math.abs(expected[i]!));
  }
  return worst / largest;
}

describe.each([
  { architecture: 'qwen3', className: 'Qwen3Model', config: {} },
  { architecture: 'gemma3_text', className: 'Gemma3TextModel', config: GEMMA },
] as const)('BitNet embeddings of $architecture', ({ architecture, className, config }) => {
  const full = {
    ...SHAPE,
    model_type: architecture,
    architectures: [className],
    tie_word_embeddings: true,
    bitnet_layers: true,
    ...config,
  };
  const weights = randomWeights(architecture, full);
  // As `save_pretrained` writes a model without a head.
  const names = Object.entries(asTensors(weights)).map(([name, tensor]) => [
    name.replace('model.', ''),
    tensor,
  ]);
  const checkpoint = memoryCheckpoint(Object.fromEntries(names), full);
  const expected = publishedForward(architecture, full, weights, TOKENS, 64, 'hidden').flat();

  it('are what the definition says', async () => {
    const { graph, info } = importModel(checkpoint);
    expect(info.quantization).toEqual({ form: 'online' });
    const headless = runPasses(graph, { head: 'none' });
    expect(headless.outputs).toEqual(['norm']);
    expect(headless.nodes.some(({ op }) => op === 'matmul')).toBe(false);
    // Scales of weights are f32, as transformers has them.
    expect(errorOf(await referenceLogits(headless, checkpoint), expected)).toBeLessThan(1e-6);
  });

  it('refuse to be rounded again', () => {
    expect(() => importModel(checkpoint, { bits: 4 })).toThrow('are ternary: they cannot be rounded again');
  });
});

describe.each(CASES)('$name', (each) => {
  const { checkpoint, expected, ternary } = checkpointOf(each);
  const options: ImportOptions = each.context === undefined ? {} : { context: each.context };
  const published = expected(each.context).flat();

  it('is what its definition says, before and after passes', async () => {
    const { graph, info } = importModel(checkpoint, options);
    expect(info.architecture).toBe(each.architecture.replace('_text', ''));
    // Two float64 implementations that add up in different orders.
    expect(errorOf(await referenceLogits(graph, checkpoint), published)).toBeLessThan(1e-12);
    expect(errorOf(await referenceLogits(runPasses(graph), checkpoint), published)).toBeLessThan(1e-12);
  });

  it('is so in f32 as a program', async () => {
    const graph = runPasses(importModel(checkpoint, options).graph);
    expect(errorOf(await programLogits(graph, checkpoint), published)).toBeLessThan(1e-5);
  });

  it('is close when its weights are rounded to 8 bits', async () => {
    const graph = runPasses(importModel(checkpoint, { ...options, bits: 8, group: 32 }).graph);
    const rounded = await referenceLogits(graph, checkpoint);
    const error = errorOf(rounded, published);
    expect(error).toBeGreaterThan(1e-5);
    expect(error).toBeLessThan(0.1);
    expect(errorOf(await programLogits(graph, checkpoint), rounded)).toBeLessThan(1e-3);
  });

  it('is its definition over trits when rounded to them', async () => {
    const definition = ternary(each.context).flat();
    expect(errorOf(definition, published)).toBeGreaterThan(0.1);
    const graph = runPasses(importModel(checkpoint, { ...options, bits: 'ternary' }).graph);
    // Activations of 15 bits, and a scale in f32.
    expect(errorOf(await referenceLogits(graph, checkpoint), definition)).toBeLessThan(1e-3);
    expect(errorOf(await programLogits(graph, checkpoint), definition)).toBeLessThan(1e-3);
  });
});
