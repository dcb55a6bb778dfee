import { describe, expect, it } from 'vitest';
import { decide, type Found, mergeChoices } from './decide.ts';
import type { TuneTask, Variant } from './tasks.ts';

const test = { seed: 1, digest: 'd' };

/** A kernel in two families of two schedules each; the plan has the first. */
function task(batch: 'one' | 'many'): TuneTask {
  const variant = (family: string, encoding: string): Variant => ({
    subject: { op: 'product', family, shape: { m: 64, batch, encoding }, machine: 'c:avx2' },
    test,
  });
  const choices = [0, 1].flatMap((v) => [1, 2].map((rows) => ({ variant: v, schedule: { rows } })));
  return {
    name: `product_${batch}`,
    variants: [variant('mad', 'tiles'), variant('lut', 'planes')],
    space: choices.map(({ schedule }) => schedule),
    choices,
    product: 'product',
    calls: 1,
    tokens: [1],
    position: 0,
  };
}

/** What was found for one: the ratios of the default's family and of the other. */
function found(own: TuneTask, usual: number, other?: number): Found {
  const best = [{ variant: 0, choice: usual === 1 ? 0 : 1, ratio: usual }];
  return {
    task: own,
    best: other === undefined ? best : [...best, { variant: 1, choice: 2, ratio: other }],
  };
}

describe('what tuning chooses', () => {
  const tasks = [task('one'), task('many')];
  const [one, many] = tasks as [TuneTask, TuneTask];
  const choose = (...all: Found[]) => decide(tasks, all).map(({ family, shape }) => [family, shape.batch]);
  const lut = [
    ['lut', 'one'],
    ['lut', 'many'],
  ];

  it('is another family for all kernels that read the weights, if one gains and none loses', () => {
    expect(choose(found(one, 1, 0.8), found(many, 1, 1.01))).toEqual(lut);
    expect(choose(found(one, 0.9, 0.8), found(many, 1, 1))).toEqual(lut);
    expect(decide(tasks, [found(one, 1, 0.8), found(many, 1, 1)])[0]).toEqual({
      ...{ op: 'product', family: 'lut', machine: 'c:avx2', schedule: { rows: 1 } },
      shape: { m: 64, batch: 'one', encoding: 'planes' },
    });
  });

  it('is the default family where the other costs one of them time, or too little is won', () => {
    expect(choose(found(one, 1, 0.8), found(many, 1, 1.1))).toEqual([]);
    expect(choose(found(one, 0.8, 0.79), found(many, 1, 1))).toEqual([['mad', 'one']]);
  });

  it('is the default family unless both were measured', () => {
    expect(choose(found(one, 1, 0.5))).toEqual([]);
    expect(choose(found(one, 0.9, 0.5), found(many, 1))).toEqual([['mad', 'one']]);
  });

  it('is checked together with what was adopted before, but for kernels measured again', () => {
    const earlier = (name: string, batch: string, rows: number) => ({
      ...{ op: 'product', family: name, machine: 'c:avx2', schedule: { rows } },
      shape: { m: 64, batch, encoding: name === 'mad' ? 'tiles' : 'planes' },
    });
    const before = [earlier('lut', 'one', 2), earlier('mad', 'many', 2)];
    const again = [found(one, 0.9)];
    const fresh = decide(tasks, again);
    expect(mergeChoices(before, again, fresh)).toEqual([earlier('mad', 'many', 2), ...fresh]);
    expect(mergeChoices(before, [], [])).toEqual(before);
  });
});
