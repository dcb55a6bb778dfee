import { describe, expect, it } from 'vitest';
import { runFunction, threadIterations } from '../loops/interpret.ts';
import { legalize } from '../loops/legalize.ts';
import { verifyFunction } from '../loops/verify.ts';
import { buildScheduled, grains, withoutGrain } from './grain.ts';
import { kernelFor } from './registry.ts';
import { bytesOf, type Elements, MACHINES, randomFloats, randomInts } from './testing.ts';

const SHAPE = { m: 208, k: 64, residual: false, batch: 'one', encoding: 'i2' };
const USE = { op: 'lowbit.matmul', family: 'mad', shape: SHAPE };

describe('the grain of a kernel', () => {
  it.each([1, 3, 4, 13, 32])('of %i changes how many pieces of work there are, and no result', (grain) => {
    const machine = MACHINES[3]!;
    const schedule = kernelFor(USE.op, USE.family).defaultSchedule(SHAPE, machine);
    const tiles = 256 / 16;
    const run = (own: typeof schedule, ranges: readonly (readonly [number, number])[]) => {
      const fn = legalize(buildScheduled(USE, 'kernel', own), machine);
      verifyFunction(fn);
      const buffers: Elements[] = [
        Int8Array.from(randomInts(1, 64, -127, 127)),
        randomFloats(2, 16),
        Int32Array.from(randomInts(3, 16, -999, 999)),
        Uint8Array.from(randomInts(4, tiles * 4 * 64, 0, 2).map((t) => t * 0b01010101)),
        randomFloats(5, 256),
        new Float32Array(256),
      ];
      const bytes = buffers.map(bytesOf);
      for (const [begin, end] of ranges)
        runFunction(fn, { buffers: bytes, scalars: [1], range: { begin, end } });
      return { pieces: threadIterations(fn, [1]), out: buffers.at(-1)! };
    };
    const usual = run(schedule, [[0, tiles]]);
    expect(usual.pieces).toBe(tiles);
    const pieces = Math.ceil(tiles / grain);
    // In another order, as threads may take them.
    const found = run({ ...schedule, grain }, [
      [pieces - 1, pieces],
      [0, pieces - 1],
    ]);
    expect(found).toEqual({ pieces, out: usual.out });
  });

  it('is tried where threads have several pieces, of no more rows than self-tests have', () => {
    const fnOf = (m: number) => {
      const use = { ...USE, shape: { ...SHAPE, m } };
      const schedule = kernelFor(USE.op, USE.family).defaultSchedule(use.shape, MACHINES[3]!);
      return grains(buildScheduled(use, 'kernel', schedule), use.shape, 2);
    };
    expect(fnOf(256)).toEqual([2, 4, 8]);
    expect(fnOf(2560)).toEqual([20, 32]);
    expect(fnOf(16)).toEqual([2]);
    expect(withoutGrain({ rows: 4, grain: 8 })).toEqual({ rows: 4 });
  });

  it('is one where the work is a number of tokens', () => {
    const shape = { k: 64 };
    const build = (schedule: object) =>
      buildScheduled({ op: 'quantize', family: 'default', shape }, 'q', { ...schedule });
    expect(build({ grain: 4 })).toEqual(build({}));
    expect(grains(build({}), shape, 2)).toEqual([]);
  });
});
