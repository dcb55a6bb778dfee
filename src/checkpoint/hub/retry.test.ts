import { describe, expect, test } from 'vitest';
import { LutraError } from '../../common/errors.ts';
import { type Attempt, repeat, retryAfterMs } from './retry.ts';

const PATIENCE = { attempts: 3, delayMs: 1, stallMs: 1000 };
const failure = new LutraError('network', 'no');

/** Gives the outcomes one after the other and counts how many were asked for. */
function outcomes(list: readonly Attempt<string>[]) {
  let asked = 0;
  return { next: async () => list[asked++]!, asked: () => asked };
}

describe('repeat', () => {
  const never = new AbortController().signal;

  test('ends at the first success', async () => {
    const { next, asked } = outcomes([
      { ok: false, failure },
      { ok: true, value: 'x' },
    ]);
    expect(await repeat(PATIENCE, never, next)).toEqual({ ok: true, value: 'x' });
    expect(asked()).toBe(2);
  });

  test('gives up after so many failures in a row', async () => {
    const { next, asked } = outcomes(Array(9).fill({ ok: false, failure }));
    expect(await repeat(PATIENCE, never, next)).toEqual({ ok: false, failure });
    expect(asked()).toBe(3);
  });

  test('counts anew after progress', async () => {
    const progressed = { ok: false, failure, progressed: true } as const;
    const failed = { ok: false, failure } as const;
    const { next, asked } = outcomes([failed, failed, progressed, failed, failed, failed]);
    await repeat(PATIENCE, never, next);
    expect(asked()).toBe(5);
  });

  test('does not wait for ever', async () => {
    const { next, asked } = outcomes([{ ok: false, failure, waitMs: 1e6 }]);
    expect(await repeat(PATIENCE, never, next)).toMatchObject({ ok: false, failure });
    expect(asked()).toBe(1);
  });

  test('ends when cancelled, before and while waiting', async () => {
    const { next, asked } = outcomes(Array(9).fill({ ok: false, failure }));
    await expect(repeat(PATIENCE, AbortSignal.abort(), next)).rejects.toMatchObject({ code: 'cancelled' });
    expect(asked()).toBe(0);
    const slow = { ...PATIENCE, delayMs: 60_000 };
    await expect(repeat(slow, AbortSignal.timeout(10), next)).rejects.toMatchObject({ code: 'cancelled' });
    expect(asked()).toBe(1);
  });
});

test('Retry-After is seconds or a date', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  expect(retryAfterMs('7', now)).toBe(7000);
  expect(retryAfterMs('0', now)).toBe(0);
  expect(retryAfterMs('-3', now)).toBe(0);
  expect(retryAfterMs('Thu, 01 Jan 2026 00:00:30 GMT', now)).toBe(30_000);
  expect(retryAfterMs('Thu, 01 Jan 2020 00:00:00 GMT', now)).toBe(0);
  for (const header of [null, '', 'soon', 'NaN', 'Infinity'])
    expect(retryAfterMs(header, now)).toBeUndefined();
});
