/** The worked example of examples/custom-operator: an operator and a code generator from outside. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { acmeCodegen, normQuantize } from '../examples/custom-operator/codegen.ts';
import { insertScaleClip, scaleClip, scaleClipKernel } from '../examples/custom-operator/operator.ts';
import { alignUp } from '../src/common/math.ts';
import { randomUniform } from '../src/common/random.ts';
import type { Graph } from '../src/graph/ir.ts';
import { coreOperators } from '../src/graph/operators/core.ts';
import { partitionGraph } from '../src/graph/partition.ts';
import { ReferenceExecutor, resolveData } from '../src/graph/reference.ts';
import { extendRegistry, operatorOf, type Registry } from '../src/graph/registry.ts';
import { ReferenceCache, type Step, type Tensor } from '../src/graph/step.ts';
import { smallModel } from '../src/graph/testing.ts';
import { verifyGraph } from '../src/graph/verify.ts';
import { compile, type Extend, load } from '../src/index.ts';
import { rowStride } from '../src/kernels/kernel.ts';
import { MACHINES } from '../src/kernels/testing.ts';
import { runFunction, runProgram } from '../src/loops/interpret.ts';
import { memoryCheckpoint } from '../src/models/testing.ts';
import { runPasses } from '../src/passes/pipeline.ts';
import { externalKernels } from '../src/plan/external.ts';
import { lowerProgram, type OperatorKernels } from '../src/plan/lower.ts';
import { planModel } from '../src/plan/plan.ts';
import { packedWeights } from './support/packed-weights.ts';

const TOKENS = Int32Array.of(3, 1, 4, 1, 5, 9, 2);

function step(tokens: number): Step {
  return { tokens, outputs: tokens, position: 0, cache: new ReferenceCache() };
}

function randomRows(seed: number, rows: number, k: number): Tensor {
  const random = randomUniform(seed);
  return {
    shape: [rows, k],
    data: Float32Array.from({ length: rows * k }, () => 4 * random() - 2),
  };
}

/** Rows of k values with the stride that kernels expect. */
function padded({ shape, data }: Tensor): Uint8Array {
  const [rows = 0, k = 0] = shape.length === 1 ? [1, ...shape] : shape;
  const out = new Float32Array(rows * rowStride(k));
  for (let r = 0; r < rows; r++) out.set(data.subarray(r * k, (r + 1) * k), r * rowStride(k));
  return new Uint8Array(out.buffer);
}

test.each([24, 64, 700])('the kernel of the operator computes its reference, rows of %i', (k) => {
  const x = randomRows(1, 3, k);
  const weight = { shape: [k], data: randomRows(2, 1, k).data };
  const node = {
    op: scaleClip.name,
    inputs: ['x', 'w'],
    outputs: [{ name: 'y', type: { dtype: 'f32', shape: ['tokens', k] } }],
    attrs: { limit: 1.5 },
  } as const;
  const [expected] = scaleClip.reference({ inputs: [x, weight], attrs: node.attrs, step: step(3) });
  const out = new Float32Array(3 * rowStride(k));
  runFunction(scaleClipKernel(node, 'scale_clip'), {
    buffers: [padded(x), padded(weight), new Uint8Array(out.buffer)],
    scalars: [3],
  });
  const rows = Array.from({ length: 3 }, (_, r) =>
    Array.from(out.subarray(r * rowStride(k), r * rowStride(k) + k)),
  );
  // One multiplication in f32, which the rounded float64 product is.
  expect(rows.flat()).toEqual(Array.from(expected!, Math.fround));
  expect(rows.flat()).toContain(1.5);
  expect(rows.flat()).toContain(-1.5);
});

/** A model with the operator behind its gates. */
const registry = extendRegistry(coreOperators, [scaleClip]);
const custom = insertScaleClip(
  smallModel(false),
  (width) => Array.from({ length: width }, (_, i) => 1 + i / width),
  0.25,
);

async function referenceLogits(graph: Graph, operators: Registry): Promise<Float64Array> {
  const model = await ReferenceExecutor.create(graph, resolveData, operators);
  return model.forward(TOKENS, { position: 0, logits: 'all', cache: new ReferenceCache() });
}

test('the operator is a full citizen of the graph: verified, and part of the reference', async () => {
  expect(custom.nodes.filter((node) => node.op === scaleClip.name)).toHaveLength(2);
  verifyGraph(custom, registry);
  expect(() => verifyGraph(custom)).toThrow('no operator is called acme.scaleClip');
  const plain = await referenceLogits(smallModel(false), registry);
  expect(await referenceLogits(custom, registry)).not.toEqual(plain);
  // Factors of 1 and a limit that nothing reaches change nothing.
  const idle = insertScaleClip(smallModel(false), (width) => new Array<number>(width).fill(1), 1e6);
  expect(await referenceLogits(idle, registry)).toEqual(plain);
});

const PLAN = { context: 16, block: 16, cacheElem: 'f32' } as const;

/** Compiles a model and gives the logits of all tokens as the loop-IR interpreter computes them. */
async function compiled(graph: Graph, operators: Registry, kernels: OperatorKernels) {
  const optimized = runPasses(graph, { registry: operators });
  const plan = planModel(optimized, PLAN, new Set(kernels.keys()));
  const program = lowerProgram(plan, MACHINES[0]!, { custom: kernels });
  const weights = await packedWeights(plan, optimized, memoryCheckpoint({}));
  const logits = new Float32Array(TOKENS.length * plan.logitsStride);
  runProgram(program, {
    buffers: {
      weights,
      arena: new Uint8Array(plan.arenaBytes).fill(0xff),
      cache: new Uint8Array(plan.cacheBytes).fill(0xff),
      logits: new Uint8Array(logits.buffer),
    },
    sequences: [{ tokens: Int32Array.from(TOKENS), position: 0, cache: 0, logits: 'all' }],
    threads: 2,
  });
  const rows = Array.from(TOKENS, (_, t) => {
    const start = t * plan.logitsStride;
    return Array.from(logits.subarray(start, start + plan.vocab));
  });
  return { plan, logits: rows.flat() };
}

/** Within float32 rounding and a few int8 steps that it tips over. */
function expectNear(actual: readonly number[], expected: Float64Array): void {
  expect(actual).toHaveLength(expected.length);
  const largest = Math.max(...expected.map(Math.abs));
  for (const [i, value] of actual.entries())
    expect(Math.abs(value - expected[i]!)).toBeLessThan(0.01 * largest);
}

test('a model with the operator compiles and runs', async () => {
  const kernels = new Map([[scaleClip.name, scaleClipKernel]]);
  const { plan, logits } = await compiled(custom, registry, kernels);
  expectNear(logits, await referenceLogits(custom, registry));
  // Both layers call one kernel.
  expect(plan.kernels.filter((kernel) => kernel.op === scaleClip.name)).toHaveLength(1);
  await expect(compiled(custom, registry, new Map())).rejects.toThrow('no kernel computes the operator');
});

test('the code from outside computes the subgraph that was cut out', () => {
  const { graph, registry, regions } = partitionGraph(smallModel(false), coreOperators, {
    codegen: 'acme',
    pattern: normQuantize,
  });
  const [region] = regions;
  const [node] = graph.nodes.filter((candidate) => candidate.op === region!.op);
  const kernel = externalKernels(regions, new Map([['acme', acmeCodegen]])).get(region!.op)!;
  const x = randomRows(3, 5, 16);
  const weight = { shape: [16], data: randomRows(4, 1, 16).data };
  const [q, scale, sum] = operatorOf(registry, region!.op, 'test').reference({
    inputs: [x, weight],
    attrs: {},
    step: step(5),
  });
  const out = {
    q: new Int8Array(5 * rowStride(16)).fill(99),
    scale: new Float32Array(alignUp(5, 16)),
    sum: new Int32Array(alignUp(5, 16)),
  };
  runFunction(kernel(node!, 'acme_norm'), {
    buffers: [padded(x), padded(weight), ...[out.q, out.scale, out.sum].map((a) => new Uint8Array(a.buffer))],
    scalars: [5],
  });
  for (let r = 0; r < 5; r++) {
    // No value of this input lies so near to a tie that float32 rounds it the other way.
    const row = Array.from(out.q.subarray(r * rowStride(16), (r + 1) * rowStride(16)));
    expect(row).toEqual([...q!.slice(r * 16, (r + 1) * 16), ...new Array<number>(48).fill(0)]);
    expect(out.sum[r]).toBe(sum![r]);
    expect(Math.abs(out.scale[r]! / scale![r]! - 1)).toBeLessThan(1e-6);
  }
});

test('a model with parts compiled outside runs', async () => {
  const whole = smallModel(false);
  const { graph, registry, regions } = partitionGraph(whole, coreOperators, {
    codegen: 'acme',
    pattern: normQuantize,
  });
  expect(graph.nodes.filter((node) => node.op === regions[0]!.op)).toHaveLength(8);
  const kernels = externalKernels(regions, new Map([['acme', acmeCodegen]]));
  const { logits } = await compiled(graph, registry, kernels);
  expectNear(logits, await referenceLogits(whole, coreOperators));
});

test('the public API compiles a model with the operator, and runs it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lutra-custom-'));
  const extended = (factor: number): Extend => {
    return (graph) => ({
      graph: insertScaleClip(graph, (width) => new Array(width).fill(factor), 1e30),
      registry,
      kernels: new Map([[scaleClip.name, scaleClipKernel]]),
    });
  };
  const answers: string[] = [];
  try {
    for (const factor of [1, -1]) {
      const options = { output: join(folder, `${factor}`), target: 'wasm', context: 64 };
      const artifact = await compile('models/tiny-bitnet', { ...options, extend: extended(factor) });
      await using model = await load(artifact);
      await using session = model.createSession();
      answers.push(
        (await session.generate('What is 4 + 106?', { temperature: 0, maxTokens: 12 }).result).text,
      );
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  // Multiplying by one changes nothing; turning the signs of all gated values does.
  expect(answers[0]).toBe('4 + 106 = 110');
  expect(answers[1]).not.toBe(answers[0]);
});
