import { describe, expect, it, test } from 'vitest';
import { runFunction } from '../loops/interpret.ts';
import type { LoopFunction } from '../loops/ir.ts';
import { scheduleOwnKernels } from '../plan/lower.ts';
import type { KernelUse } from '../plan/types.ts';
import { C_MACHINES } from '../targets/c/machines.ts';
import type { Executable, KernelCall } from '../targets/executable.ts';
import { expectKernels, findWrongKernels, selfTestSchema, stepTokens } from './self-test.ts';

const kernels: readonly KernelUse[] = [
  {
    name: 'product',
    op: 'lowbit.matmul',
    family: 'mad',
    shape: { m: 200, k: 100, residual: true, batch: 'many', encoding: 'i2' },
  },
  { name: 'head', op: 'matmul', family: 'int8', shape: { m: 130, k: 70, elem: 'i8' } },
  { name: 'gate', op: 'gate.packed', family: 'default', shape: { k: 90, act: 'relu2' } },
  { name: 'rows', op: 'embedding', family: 'default', shape: { hidden: 70, elem: 'bf16' } },
];
const [best, plainest] = [C_MACHINES[0]!, C_MACHINES.at(-1)!];
const SEED = 5;

/** An executable whose kernels the interpreter runs, as they are scheduled for the best machine. */
function interpreted(functions: readonly LoopFunction[], target = best.name): Executable {
  return {
    target,
    async callKernel({ kernel, buffers, scalars, begin, end }: KernelCall) {
      runFunction(functions.find((fn) => fn.name === kernel)!, { buffers, scalars, range: { begin, end } });
    },
  } as Executable;
}

describe('the self-test of kernels', () => {
  const tests = expectKernels({ kernels }, [best, plainest], SEED);
  const functions = scheduleOwnKernels({ kernels }, best);

  it('covers every kernel, and survives being stored', () => {
    expect(Object.keys(tests)).toEqual(kernels.map(({ name }) => name));
    const stored = JSON.parse(JSON.stringify({ kernels: tests, steps: { tokens: [[1]], digest: '00' } }));
    expect(selfTestSchema.parse(stored).kernels).toEqual(tests);
  });

  it('finds nothing wrong with another schedule of the same kernels', async () => {
    expect(await findWrongKernels(interpreted(functions), tests)).toEqual([]);
  });

  it('names the kernels that compute something else', async () => {
    const swapped = expectKernels(
      {
        kernels: kernels.map((use) =>
          use.name === 'gate' ? { ...use, shape: { k: 90, act: 'silu' } } : use,
        ),
      },
      [best, plainest],
      SEED,
    );
    expect(await findWrongKernels(interpreted(functions), swapped)).toEqual(['gate']);
    const odd = { ...tests, product: { ...tests.product!, seed: SEED + 100 } };
    expect(await findWrongKernels(interpreted(functions), odd)).toEqual(['product']);
  });

  it('tests both of the ways in which attention of several tokens ends', async () => {
    const shape = { heads: 2, kvHeads: 1, headDim: 16, context: 300, cacheElem: 'f32' };
    const attention: KernelUse = { name: 'seen', op: 'attention', family: 'default', shape };
    const both = expectKernels({ kernels: [attention] }, [best, plainest], SEED);
    expect(Object.values(both).map(({ kernel }) => kernel)).toEqual([undefined, 'seen']);
    const right = interpreted(scheduleOwnKernels({ kernels: [attention] }, best));
    expect(await findWrongKernels(right, both)).toEqual([]);
    const odd = { ...both['seen (2)']!, seed: SEED + 100 };
    expect(await findWrongKernels(right, { ...both, 'seen (2)': odd })).toEqual(['seen']);
    const short = { ...attention, shape: { ...shape, context: 256 } };
    expect(Object.keys(expectKernels({ kernels: [short] }, [best], SEED))).toEqual(['seen']);
  });

  it('refuses to trust a target that it does not cover', async () => {
    await expect(findWrongKernels(interpreted(functions, 'c:other'), tests)).rejects.toThrow(
      'does not cover product on c:other',
    );
  });
});

test.each([1, 2, 3, 512])('tokens of the self-test fit a context of %d', (context) => {
  const steps = stepTokens(100, context).map((tokens) => tokens.length);
  expect(Math.min(...steps)).toBeGreaterThan(0);
  expect(steps.reduce((sum, count) => sum + count)).toBeLessThanOrEqual(context);
});
