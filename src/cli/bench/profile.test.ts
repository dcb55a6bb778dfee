import { describe, expect, it } from 'vitest';
import type { CallTraffic } from '../../plan/traffic.ts';
import { profilePhase, slicesOf, type TimedStep, traceOf } from './profile.ts';

const call = (kernel: string, weightBytes: number): CallTraffic => ({
  kernel,
  op: kernel.split('_')[0]!,
  rows: 1,
  weightBytes,
  cacheBytes: 10,
  activationBytes: 100,
  operations: 2 * weightBytes,
  floatOperations: 0,
});

/** Two threads: a, b, a. Thread 1 is slower in b. */
const step: TimedStep = {
  phase: 'decode',
  tokens: 1,
  sequences: 1,
  position: 7,
  start: 100,
  end: 120,
  threads: 2,
  groups: [[call('a_1', 1000)], [call('b_1', 5000), call('b_1', 500)], [call('a_1', 3000)]],
  times: Float64Array.from([
    ...[101, 103, 104, 105, 109, 110, 111, Number.NaN],
    ...[102, 104, 104, 109, 109, 111, 111, Number.NaN],
  ]),
};

describe('slicesOf', () => {
  it('is each thread between barriers, and its wait', () => {
    const slices = slicesOf(step).map(({ thread, start, end, released }) => [thread, start, end, released]);
    expect(slices).toEqual([
      [0, 101, 103, 104],
      [0, 104, 105, 109],
      [0, 109, 110, 111],
      [1, 102, 104, 104],
      [1, 104, 109, 109],
      [1, 109, 111, 111],
    ]);
  });

  it('refuses a step in which nothing was noted', () => {
    expect(() => slicesOf({ ...step, times: new Float64Array(16).fill(Number.NaN) })).toThrow(
      /cannot be profiled/,
    );
  });
});

describe('profilePhase', () => {
  it('adds up calls, time, waiting and bytes by kernel, longest first', () => {
    const prefill: TimedStep = { ...step, phase: 'prefill', tokens: 4 };
    const profile = profilePhase('decode', [step, prefill, { ...step, end: 130 }]);
    expect(profile).toEqual({
      phase: 'decode',
      steps: 2,
      tokens: 2,
      milliseconds: 50,
      kernels: [
        {
          kernel: 'b_1',
          calls: 4,
          milliseconds: 10,
          waiting: (2 * (4 / 2)) / 10,
          weightBytes: 11000,
          cacheBytes: 40,
          activationBytes: 400,
          operations: 22000,
          floatOperations: 0,
        },
        {
          kernel: 'a_1',
          calls: 4,
          // 102, when both were awake, to 104, and 109 to 111, twice.
          milliseconds: 8,
          waiting: (2 * ((1 + 0) / 2 + (1 + 0) / 2)) / 8,
          weightBytes: 8000,
          cacheBytes: 40,
          activationBytes: 400,
          operations: 16000,
          floatOperations: 0,
        },
      ],
    });
    const sum = profile.kernels.reduce((all, { milliseconds }) => all + milliseconds, 0);
    expect(sum).toBeLessThanOrEqual(profile.milliseconds);
  });
});

describe('traceOf', () => {
  it('has a lane for the steps and one for each thread, in microseconds from the first step', () => {
    const trace = traceOf({ model: 'm', target: 't' }, [step]);
    const { traceEvents } = JSON.parse(JSON.stringify(trace)) as typeof trace;
    const names = traceEvents.filter(({ ph }) => ph === 'M').map(({ tid, args }) => [tid, args.name]);
    expect(names).toEqual([
      [0, 'm on t'],
      [0, 'steps'],
      [1, 'thread 0'],
      [2, 'thread 1'],
    ]);
    const slices = traceEvents.filter(({ ph }) => ph === 'X');
    expect(slices.map(({ tid, name, ts, dur }) => [tid, name, ts, dur])).toEqual([
      [0, 'decode', 0, 20000],
      [1, 'a_1', 1000, 2000],
      [1, 'b_1', 4000, 1000],
      [1, 'a_1', 9000, 1000],
      [2, 'a_1', 2000, 2000],
      [2, 'b_1', 4000, 5000],
      [2, 'a_1', 9000, 2000],
    ]);
    expect(slices[0]!.args).toEqual({ tokens: 1, position: 7 });
    expect(slices[2]).toMatchObject({ cat: 'b', args: { rows: 1, calls: 2, weightBytes: 5500 } });
  });
});
