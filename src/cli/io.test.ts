import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { fakeIo } from '../../test/support/fake-io.ts';
import { interruptible } from './io.ts';

test('the first Ctrl-C cancels, its echo does nothing, the second ends at once', async () => {
  const io = fakeIo();
  let time = 1000;
  let release: () => void = () => undefined;
  const stuck = new Promise<void>((resolve) => {
    release = resolve;
  });
  let seen: AbortSignal | undefined;
  const running = interruptible(
    io,
    (signal) => {
      seen = signal;
      return stuck;
    },
    () => time,
  );
  expect(seen?.aborted).toBe(false);
  io.interrupt();
  expect(seen?.aborted).toBe(true);
  time += 20;
  io.interrupt();
  expect([io.abandoned(), io.written.error]).toEqual([false, '']);
  time += 600;
  io.interrupt();
  expect(io.abandoned()).toBe(true);
  expect(io.written.error).toMatch(/^lutra: ended at once; .*\.partial/);
  release();
  await running;
  io.interrupt();
  expect(io.written.error.split('\n')).toHaveLength(2);
});

test('a person is told of the second Ctrl-C when the first takes long', async () => {
  const slow = fakeIo({ errorIsTerminal: true });
  const running = interruptible(slow, () => sleep(1300));
  slow.interrupt();
  await running;
  expect(slow.written.error).toContain('stopping; Ctrl-C again ends at once');
  const quick = fakeIo({ errorIsTerminal: true });
  const ended = interruptible(quick, () => sleep(1));
  quick.interrupt();
  await ended;
  expect(quick.written.error).toBe('');
});
