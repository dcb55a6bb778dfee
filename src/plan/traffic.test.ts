import { beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../checkpoint/open.ts';
import { importModel } from '../models/import.ts';
import { runPasses } from '../passes/pipeline.ts';
import { planModel } from './plan.ts';
import { type CallTraffic, stepTraffic } from './traffic.ts';
import type { Plan } from './types.ts';

const CONTEXT = 64;
const BLOCK = 16;
const last = 'last' as const;

let plan: Plan;

beforeAll(async () => {
  const checkpoint = await openCheckpoint('models/tiny-bitnet');
  const graph = runPasses(importModel(checkpoint, { context: CONTEXT }).graph);
  plan = planModel(graph, { context: CONTEXT, block: BLOCK, cacheElem: 'f32' });
  await checkpoint.close();
});

function total(groups: readonly (readonly CallTraffic[])[], op?: string) {
  const calls = groups.flat().filter((call) => op === undefined || call.op === op);
  const sum = (key: keyof CallTraffic) => calls.reduce((all, call) => all + Number(call[key]), 0);
  return {
    calls: calls.length,
    rows: sum('rows'),
    weightBytes: sum('weightBytes'),
    cacheBytes: sum('cacheBytes'),
    operations: sum('operations'),
    floatOperations: sum('floatOperations'),
  };
}

function shapeOf(op: string): Readonly<Record<string, unknown>> {
  return plan.kernels.find((use) => use.op === op)!.shape;
}

describe('stepTraffic', () => {
  it('counts every matrix of low bits once for a token: all its bytes, two operations a weight', () => {
    const step = stepTraffic(plan, [{ tokens: 1, position: 5, logits: last }]);
    const lowbit = plan.weights.filter((slot) => slot.encoding === 'i2');
    const matrices = total(step, 'lowbit.matmul');
    expect(matrices.calls).toBe(lowbit.length);
    const bytes = lowbit.flatMap((slot) => slot.regions).reduce((sum, region) => sum + region.bytes, 0);
    // And a float of scale for each row.
    const uses = new Map(plan.kernels.map((use) => [use.name, use]));
    const calls = step.flat().filter((call) => call.op === 'lowbit.matmul');
    const rows = calls.reduce((sum, call) => sum + Number(uses.get(call.kernel)!.shape.m), 0);
    expect(matrices.weightBytes).toBe(bytes + 4 * rows);
    // Four codes in a byte; tiles are padded, so there may be fewer weights.
    const packed = lowbit.reduce((sum, slot) => sum + slot.regions[0]!.bytes * 4, 0);
    expect(matrices.operations).toBeLessThanOrEqual(2 * packed);
    expect(matrices.operations).toBeGreaterThan(packed);
    for (const group of step) expect(group.length).toBeGreaterThan(0);
  });

  it('reads the KV cache up to the position, and writes a row to it', () => {
    const { kvHeads, headDim, heads } = shapeOf('attention') as Record<string, number>;
    const first = stepTraffic(plan, [{ tokens: 1, position: 0, logits: last }]);
    const layers = total(first, 'attention.parts').calls;
    const at = (position: number, op: string) =>
      total(stepTraffic(plan, [{ tokens: 1, position, logits: last }]), op);
    const row = 2 * kvHeads! * headDim! * 4 * layers;
    expect(at(40, 'attention.parts').cacheBytes).toBe(41 * row);
    expect(at(40, 'rope.store').cacheBytes).toBe(row);
    expect(at(40, 'attention.parts').floatOperations).toBe(41 * 4 * heads! * headDim! * layers);
  });

  it('looks up rows of a table instead of reading all of it', () => {
    const { hidden, elem } = shapeOf('embedding');
    expect(elem).toBe('bf16');
    const step = stepTraffic(plan, [{ tokens: 3, position: 0, logits: last }]);
    expect(total(step, 'embedding').weightBytes).toBe(3 * Number(hidden) * 2);
  });

  it('reads weights again for every block of a long prompt, and the head once where one token is wanted', () => {
    const all = (tokens: number) => stepTraffic(plan, [{ tokens, position: 0, logits: 'all' }]);
    const [once, thrice] = [BLOCK, 2 * BLOCK + 3].map((tokens) => total(all(tokens), 'lowbit.matmul'));
    expect(thrice!.weightBytes).toBe(3 * once!.weightBytes);
    expect(thrice!.operations).toBe((once!.operations / BLOCK) * (2 * BLOCK + 3));
    const heads = [BLOCK, 2 * BLOCK + 3].map((tokens) =>
      total(stepTraffic(plan, [{ tokens, position: 0, logits: last }]), 'matmul'),
    );
    expect(heads[1]).toEqual(heads[0]);
    expect(total(all(BLOCK), 'matmul').rows).toBe(BLOCK * heads[0]!.rows);
  });

  it('reads weights once for several sequences, and the cache of each', () => {
    const one = stepTraffic(plan, [{ tokens: 1, position: 30, logits: last }]);
    const four = stepTraffic(
      plan,
      [10, 20, 30, 40].map((position) => ({ tokens: 1, position, logits: last })),
    );
    expect(four).toHaveLength(one.length);
    expect(total(four, 'lowbit.matmul').weightBytes).toBe(total(one, 'lowbit.matmul').weightBytes);
    expect(total(four, 'attention.parts').calls).toBe(4 * total(one, 'attention.parts').calls);
    const row = total(one, 'attention.parts').cacheBytes / 31;
    expect(total(four, 'attention.parts').cacheBytes).toBe(row * (11 + 21 + 31 + 41));
  });

  it('reads the codes and norms of an exact head where it scans, instead of the table', async () => {
    const checkpoint = await openCheckpoint('models/tiny-bitnet');
    const graph = runPasses(importModel(checkpoint, { context: CONTEXT }).graph, { head: 'exact' });
    await checkpoint.close();
    const exact = planModel(graph, { context: CONTEXT, block: BLOCK, cacheElem: 'f32' });
    const head = (scan: boolean) => {
      const step = stepTraffic(exact, [{ tokens: 1, position: 5, logits: last }], scan);
      const calls = step.flat().filter(({ op }) => op === 'matmul');
      expect(calls).toHaveLength(1);
      return calls[0]!;
    };
    const { m, k } = exact.kernels.find(({ op, shape }) => op === 'matmul' && shape.bounds === true)!.shape;
    const [rows, columns] = [Number(m), Number(k)];
    // bf16; 6 bits, a bf16 for 64 of them, and a norm for each group.
    expect(head(false).weightBytes).toBe(2 * rows * columns);
    const scanned = head(true).weightBytes / (rows * columns);
    expect(scanned).toBeGreaterThan(6 / 8);
    expect(scanned).toBeLessThan(8 / 8);
  });
});
