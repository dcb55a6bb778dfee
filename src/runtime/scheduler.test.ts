import { describe, expect, it } from 'vitest';
import type { CacheHandle, Executable, StepRequest } from '../targets/executable.ts';
import { StepScheduler } from './scheduler.ts';

/** An executable that notes which sequences shared a step. */
function fake(fail: (tokens: number) => boolean = () => false) {
  const steps: string[] = [];
  let running = 0;
  const executable: Executable = {
    target: 'fake',
    threads: 1,
    createCache: () => ({ bytes: 0, free: () => undefined }),
    async step(requests) {
      expect(running++).toBe(0);
      steps.push(requests.map(({ tokens, position }) => `${tokens[0]}@${position}`).join(' '));
      await new Promise((done) => setTimeout(done, 1));
      running--;
      if (requests.some(({ tokens }) => fail(tokens[0]!))) throw new Error('no');
      return requests.map(({ tokens, position }) => Float32Array.of(tokens[0]!, position));
    },
    stepSelected: () => Promise.reject(new Error('nobody selects')),
    callKernel: async () => undefined,
    close: async () => undefined,
  };
  return { executable, steps };
}

const request = (cache: CacheHandle, id: number, position: number, length = 1): StepRequest => ({
  tokens: new Int32Array(length).fill(id),
  position,
  cache,
  logits: 'last',
});

/** Steps a sequence through positions, checking that it gets its own logits. */
async function walk(scheduler: StepScheduler, id: number, positions: number): Promise<void> {
  const cache = scheduler.createCache();
  for (let p = 0; p < positions; p++) {
    expect([...(await scheduler.step(request(cache, id, p)))]).toEqual([id, p]);
  }
}

describe('StepScheduler', () => {
  it('merges sequences that run at the same time, also when they come and go', async () => {
    const { executable, steps } = fake();
    const scheduler = new StepScheduler(executable);
    const late = new Promise<void>((done) => setImmediate(done)).then(() => walk(scheduler, 3, 2));
    await Promise.all([walk(scheduler, 1, 4), walk(scheduler, 2, 2), late]);
    expect(steps).toEqual(['1@0 2@0', '3@0 1@1 2@1', '3@1 1@2', '1@3']);
  });

  it('computes no more sequences at once than it is told, in turn', async () => {
    const { executable, steps } = fake();
    const scheduler = new StepScheduler(executable, 2);
    await Promise.all([1, 2, 3].map((id) => walk(scheduler, id, 2)));
    expect(steps).toEqual(['1@0 2@0', '3@0 1@1', '2@1 3@1']);
    const alone = fake();
    const one = new StepScheduler(alone.executable, 1);
    await Promise.all([1, 2].map((id) => walk(one, id, 2)));
    expect(alone.steps).toEqual(['1@0', '2@0', '1@1', '2@1']);
  });

  it('lets single tokens go along with a chunk of a prompt, but not a second chunk', async () => {
    const { executable, steps } = fake();
    const scheduler = new StepScheduler(executable);
    const [a, b, c] = [1, 2, 3].map(() => scheduler.createCache()) as [CacheHandle, CacheHandle, CacheHandle];
    await Promise.all([
      scheduler.step(request(a, 1, 0, 256)),
      scheduler.step(request(b, 2, 0, 256)),
      scheduler.step(request(c, 3, 9)),
      // Again the first: its turn comes after what it asked for before.
      scheduler.step(request(a, 4, 256)),
    ]);
    expect(steps).toEqual(['1@0 3@9', '2@0 4@256']);
  });

  it('tells everybody in a step that it failed, and goes on', async () => {
    const { executable } = fake((token) => token === 7);
    const scheduler = new StepScheduler(executable);
    const cache = scheduler.createCache();
    const bad = [walk(scheduler, 7, 1), walk(scheduler, 8, 1)];
    const results = await Promise.allSettled(bad);
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect([...(await scheduler.step(request(cache, 1, 5)))]).toEqual([1, 5]);
  });
});
