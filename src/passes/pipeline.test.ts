import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { Graph } from '../graph/ir.ts';
import { ReferenceExecutor } from '../graph/reference.ts';
import { ReferenceCache } from '../graph/step.ts';
import { importModel } from '../models/import.ts';
import {
  memoryCheckpoint,
  SMALL,
  type SmallTensorsOptions,
  smallConfig,
  smallTensors,
} from '../models/testing.ts';
import { exactValues } from '../models/weights.ts';
import type { Pass } from './pass.ts';
import { type PassReport, PIPELINE, runPasses } from './pipeline.ts';

const SUB_NORMS = { attention: 'attn_sub_norm', feedForward: 'ffn_sub_norm' };

function smallModel(
  options: SmallTensorsOptions,
  config: Readonly<Record<string, unknown>> = {},
): Checkpoint {
  const online = options.weights === 'masters';
  return memoryCheckpoint(smallTensors(options), {
    ...smallConfig(options.shape ?? SMALL),
    model_type: options.subNorms === undefined ? 'llama' : 'bitnet',
    tie_word_embeddings: options.tied ?? false,
    quantization_config: {
      quant_method: 'bitnet',
      linear_class: online ? 'autobitlinear' : 'bitlinear',
      quantization_mode: online ? 'online' : 'offline',
    },
    ...config,
  });
}

/** Logits of a prompt at once, then of three tokens one by one. */
async function generate(graph: Graph, checkpoint: Checkpoint): Promise<Float64Array[]> {
  const executor = await ReferenceExecutor.create(graph, (constant) => exactValues(constant, checkpoint));
  const cache = new ReferenceCache();
  const logits = [executor.forward(Int32Array.of(3, 1, 4, 0, 5), { position: 0, logits: 'all', cache })];
  for (const [i, token] of [2, 6, 5].entries()) {
    logits.push(executor.forward(Int32Array.of(token), { position: 5 + i, logits: 'last', cache }));
  }
  return logits;
}

const countOf = (graph: Graph, op: string) => graph.nodes.filter((node) => node.op === op).length;

describe('PIPELINE', () => {
  it('leaves only what kernels compute', () => {
    const { graph } = importModel(smallModel({ weights: { packedScale: 8 }, subNorms: SUB_NORMS }));
    const fused = runPasses(graph);
    const ops = Object.fromEntries(
      [...new Set(fused.nodes.map(({ op }) => op))].map((op) => [op, countOf(fused, op)]),
    );
    expect(ops).toEqual({
      embedding: 1,
      'rmsNorm.quantize': 8,
      'lowbit.matmul': 4,
      'attention.packed': 2,
      'lowbit.matmul.add': 4,
      'gate.packed': 2,
      // Of the last attention's result, and of the residual beside it.
      selectOutputs: 2,
      rmsNorm: 1,
      matmul: 1,
    });
    expect(fused.constants.every(({ encoding }) => encoding !== undefined)).toBe(true);
  });

  it('quantizes what has no norm before it by itself', () => {
    const { graph } = importModel(smallModel({ weights: { packedScale: 8 } }));
    const fused = runPasses(graph);
    expect([countOf(fused, 'quantize'), countOf(fused, 'rmsNorm.quantize')]).toEqual([4, 4]);
  });

  it('does nothing to a graph that went through it', () => {
    const { graph } = importModel(smallModel({ weights: 'masters', tied: true }));
    for (const head of ['stored', 'int8'] as const) {
      const fused = runPasses(graph, { head });
      const changed: string[] = [];
      expect(runPasses(fused, { head, onPass: (r) => r.changed && changed.push(r.pass) })).toBe(fused);
      expect(changed).toEqual([]);
    }
  });

  it('changes no bit of what any model computes', async () => {
    const shapes = fc.record({
      hidden: fc.integer({ min: 1, max: 9 }).map((n) => 4 * n),
      intermediate: fc.integer({ min: 1, max: 9 }).map((n) => 4 * n),
      layers: fc.integer({ min: 1, max: 3 }),
      kvHeads: fc.integer({ min: 1, max: 3 }),
      group: fc.integer({ min: 1, max: 3 }),
      headDim: fc.constantFrom(4, 8, 12),
      vocab: fc.integer({ min: 7, max: 20 }),
      masters: fc.boolean(),
      subNorms: fc.boolean(),
      tied: fc.boolean(),
      act: fc.constantFrom('relu2', 'silu'),
    });
    await fc.assert(
      fc.asyncProperty(shapes, async ({ group, masters, subNorms, tied, act, ...shape }) => {
        const options: SmallTensorsOptions = {
          weights: masters ? 'masters' : { packedScale: 4 },
          ...(subNorms ? { subNorms: SUB_NORMS } : {}),
          tied,
          shape: { ...shape, heads: shape.kvHeads * group },
        };
        const checkpoint = smallModel(options, { hidden_act: act });
        const { graph } = importModel(checkpoint);
        const [before, after] = await Promise.all(
          [graph, runPasses(graph)].map((g) => generate(g, checkpoint)),
        );
        expect(before![0]!.some((value) => value !== 0)).toBe(true);
        expect(after).toEqual(before);
      }),
      { seed: 1, numRuns: 40 },
    );
  });
});

/** Of the passes, those that find nothing to do in a BitNet. */
const UNUSED = new Set(['drop-head', 'fold-constants', 'join-columns']);

describe('runPasses', () => {
  const { graph } = importModel(smallModel({ weights: { packedScale: 8 }, subNorms: SUB_NORMS }));

  it('reports which pass changed what', () => {
    const reports: PassReport[] = [];
    runPasses(graph, { onPass: (report) => reports.push(report) });
    expect(reports.map(({ pass, changed }) => [pass, changed])).toEqual(
      PIPELINE.map(({ name }) => [name, !UNUSED.has(name)]),
    );
    expect(reports[2]).toMatchObject({ nodes: { quantize: -6 }, constants: 0 });
    expect(reports[3]).toMatchObject({ nodes: { 'lowbit.matmul': -6, slice: 10 }, constants: 8 });
    expect(reports.at(-1)!.graph.constants.some(({ encoding }) => encoding === 'i2')).toBe(true);
  });

  it('blames the pass that breaks a graph, unless told not to look', () => {
    const broken: Pass = { name: 'break-it', run: (g) => ({ ...g, nodes: g.nodes.slice(1) }) };
    expect(() => runPasses(graph, { passes: [broken] })).toThrow(
      /the pass break-it left an invalid graph: .*reads embedded, which nothing defines/,
    );
    expect(runPasses(graph, { passes: [broken], verify: false }).nodes.length).toBe(graph.nodes.length - 1);
  });
});
