/** Tuning with measurements that are made up: what is recorded, chosen, resumed and given up. */
import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { kernelFor } from '../kernels/registry.ts';
import { decide } from './decide.ts';
import type { MeasureJob, MeasureResult } from './job.ts';
import { machineNamed } from './kernels.ts';
import type { RecordFile, Trial, TuneRecord } from './records.ts';
import { drawSearch } from './report.ts';
import type { TuneTask, Variant } from './tasks.ts';
import { type TuneContext, type TuneProgress, tuneKernels } from './tune.ts';

const MACHINE = 'c:avx2';
const SHAPE = {
  m: 512,
  k: 256,
  bits: 2,
  group: 64,
  activationGroup: 64,
  zero: 2,
  zeros: 'none',
  scales: 'f32',
};
const test = { seed: 1, digest: 'd' };

/** A product in groups by all three families, as the default has it first. */
function groupTask(m = SHAPE.m): TuneTask {
  const shape = { ...SHAPE, m, to: 'int8', residual: false, batch: 'one' };
  const variants = [
    { family: 'mad', shape: { ...shape, encoding: 'code-tiles' } },
    { family: 'lut', shape: { ...shape, encoding: 'bit-planes', tables: 'exact' } },
    { family: 'popcount', shape: { ...shape, encoding: 'bit-planes', tables: 'bits' } },
  ].map((own): Variant => ({ subject: { op: 'lowbit.matmul.group', machine: MACHINE, ...own }, test }));
  const choices = variants.flatMap(({ subject }, variant) =>
    kernelFor(subject.op, subject.family)
      .schedules(subject.shape, machineNamed(MACHINE))
      .map((schedule) => ({ variant, schedule: { ...schedule } })),
  );
  return {
    name: 'product_one',
    variants,
    space: choices.map(({ variant, schedule }) => ({
      family: variants[variant]!.subject.family,
      ...schedule,
    })),
    choices,
    product: 'product',
    calls: 1,
    tokens: [1],
    position: 0,
  };
}

function memoryRecords(): RecordFile & { readonly records: TuneRecord[] } {
  const records: TuneRecord[] = [];
  return {
    path: 'memory',
    records,
    append: async (record) => {
      records.push(record);
    },
  };
}

const ok = (ratio: number): MeasureResult => ({
  ...{ outcome: 'ok', seconds: ratio, againstSeconds: 1, ratio, ratios: [ratio] },
});

function context(
  run: (job: MeasureJob) => MeasureResult | Promise<MeasureResult>,
  more: Partial<TuneContext> = {},
): TuneContext & { readonly records: ReturnType<typeof memoryRecords> } {
  return {
    host: 'here',
    threads: 1,
    limits: { trials: 30, secondsPerKernel: 1e9, secondsInAll: 1e9, secondsPerTrial: 1 },
    run: async (job) => run(job),
    ...more,
    records: (more.records as ReturnType<typeof memoryRecords> | undefined) ?? memoryRecords(),
  };
}

const trialsOf = ({ records }: RecordFile) => records.filter((r): r is Trial => r.kind === 'trial');

describe('tuning', () => {
  it('records what crashes, hangs or is wrong as such, and never chooses it', async () => {
    const task = groupTask();
    const bad = ['wrong', 'crashed', 'timeout', 'failed'] as const;
    let count = 0;
    // Whatever is not the default claims to be much faster, were it not for how it ended.
    const own = context(() => ({ outcome: bad[count++ % bad.length]!, reason: 'made up' }));
    const found = await tuneKernels([task], own);
    expect(found[0]!.best).toEqual([{ variant: 0, choice: 0, ratio: 1 }]);
    expect(decide([task], found)).toEqual([]);
    const outcomes = new Set(trialsOf(own.records).map(({ outcome }) => outcome));
    expect([...outcomes].sort()).toEqual([...bad].sort());
    for (const { reason, ratio } of trialsOf(own.records))
      expect([reason, ratio]).toEqual(['made up', undefined]);
  });

  it('does not choose what was fast but once', async () => {
    const task = groupTask();
    const seen = new Set<string>();
    const own = context(({ candidate }) => {
      const key = JSON.stringify(candidate);
      const again = seen.has(key);
      seen.add(key);
      return again ? { outcome: 'crashed', reason: 'the second time' } : ok(0.5);
    });
    const found = await tuneKernels([task], own);
    expect(decide([task], found)).toEqual([]);
  });

  it('tries every family, and rejects the slow one in records and drawing', async () => {
    const task = groupTask();
    const speed = { mad: 0.9, lut: 0.6, popcount: 4 } as const;
    const own = context(({ candidate }) => ok(speed[candidate.family as keyof typeof speed]));
    const progress: TuneProgress[] = [];
    const found = await tuneKernels([task], { ...own, onProgress: (p) => progress.push(p) });
    expect(decide([task], found).map(({ family, shape }) => [family, shape.tables])).toEqual([
      ['lut', 'exact'],
    ]);
    expect(progress.at(-1)).toMatchObject({ best: 0.6, variant: 'lut bit-planes' });
    const counted = trialsOf(own.records).filter(({ family }) => family === 'popcount');
    expect(counted.map(({ outcome, ratio }) => [outcome, ratio])).toEqual([['ok', 4]]);
    expect(drawSearch(own.records.records, MACHINE)).toContain('popcount bit-planes 512x256 one');
  });

  it('goes on from the records: what was tried is not tried again', async () => {
    const task = groupTask();
    const first = context(() => ok(1.1));
    await tuneKernels([task], { ...first, limits: { ...first.limits, trials: 6 } });
    expect(first.records.records).toHaveLength(6);
    const second = context(() => ok(1.1), { records: first.records });
    await tuneKernels([task], { ...second, limits: { ...second.limits, trials: 9 } });
    const keys = trialsOf(first.records).map(({ family, schedule }) => JSON.stringify([family, schedule]));
    expect(keys).toHaveLength(9);
    expect(new Set(keys).size).toBe(9);
    // Elsewhere, times mean nothing.
    const third = context(() => ok(1.1), { records: first.records, host: 'there' });
    await tuneKernels([task], { ...third, limits: { ...third.limits, trials: 9 } });
    expect(first.records.records).toHaveLength(18);
  });

  it('ends early with what it found', async () => {
    const stop = new AbortController();
    const tasks = [groupTask(), { ...groupTask(1024), name: 'other', product: 'other' }];
    let finalist = false;
    const own = context(({ turns }) => {
      if (stop.signal.aborted) throw new LutraError('cancelled', 'tuning was cancelled');
      finalist ||= turns > 5;
      if (finalist && turns === 5) {
        // The second kernel's turn.
        stop.abort();
        throw new LutraError('cancelled', 'tuning was cancelled');
      }
      return ok(0.7);
    });
    const found = await tuneKernels(tasks, { ...own, signal: stop.signal });
    expect(found.map(({ task }) => task.name)).toEqual(['product_one']);
    expect(decide(tasks.slice(0, 1), found)).toHaveLength(1);
    expect(own.records.records.length).toBeGreaterThan(3);
  });

  it('splits the work among threads where that is faster on all of them', async () => {
    const task = groupTask();
    const own = context(
      ({ candidate, threads }) => {
        const { grain = 1 } = candidate.schedule;
        expect(Number(grain) > 1).toBe(threads === 2);
        if (candidate.family !== 'mad') return ok(3);
        return ok(threads === 1 ? 0.9 : grain === 8 ? 0.7 : grain === 4 ? 0.9 : 1.2);
      },
      { threads: 2 },
    );
    const found = await tuneKernels([task], own);
    const [chosen] = decide([task], found);
    expect(chosen).toMatchObject({ family: 'mad', schedule: { grain: 8 } });
    const onTeams = trialsOf(own.records).filter(({ threads }) => threads === 2);
    expect(onTeams.map(({ schedule }) => schedule.grain)).toEqual([4, 4, 8, 8, 16]);
    // Of one thread they say nothing.
    const again = context(() => ok(3), { records: own.records });
    await tuneKernels([task], { ...again, limits: { ...again.limits, trials: 1 } });
  });
});
