import { afterEach, describe, expect, test } from 'vitest';
import { nodePlatform } from './node.ts';
import type { Thread } from './platform.ts';

type Event = { readonly message: unknown } | { readonly failure: string };

const threads: Thread[] = [];
afterEach(async () => {
  await Promise.all(threads.splice(0).map((thread) => thread.stop()));
});

/** Starts a thread and gives its events one by one. */
function start(source: string) {
  const events: Event[] = [];
  let arrived = () => {};
  const add = (event: Event) => {
    events.push(event);
    arrived();
  };
  const thread = nodePlatform.startThread(source, {
    message: (message) => add({ message }),
    failure: ({ message }) => add({ failure: message }),
  });
  threads.push(thread);
  const next = async (): Promise<Event> => {
    while (events.length === 0) await new Promise<void>((resolve) => (arrived = resolve));
    return events.shift()!;
  };
  return { thread, next, events };
}

describe('threads of Node', () => {
  test('messages go both ways, shared memory and transfers included', async () => {
    const { thread, next } = start(`
      receive(({ shared, moved }) => {
        Atomics.store(new Int32Array(shared), 0, 7);
        send({ bytes: moved.byteLength });
      });
    `);
    const shared = new SharedArrayBuffer(4);
    const moved = new ArrayBuffer(12);
    thread.post({ shared, moved }, [moved]);
    expect(await next()).toEqual({ message: { bytes: 12 } });
    expect(moved.byteLength).toBe(0);
    expect(new Int32Array(shared)[0]).toBe(7);
  });

  test.each([
    ['an exception', 'throw new Error("broken");', 'broken'],
    ['a script that does not parse', 'receive((;', 'Unexpected token'],
    ['the end of the thread', 'process.exit(3);', 'code 3'],
  ])('%s is reported, once', async (_, source, reason) => {
    const { next, events, thread } = start(source);
    expect(await next()).toEqual({ failure: expect.stringContaining(reason) });
    await thread.stop();
    expect(events).toEqual([]);
  });

  test('a thread that never returns can be stopped, and then reports nothing', async () => {
    const { thread, next, events } = start('send("here"); for (;;) {}');
    expect(await next()).toEqual({ message: 'here' });
    await thread.stop();
    expect(events).toEqual([]);
  });

  test('a thread asleep in Atomics.wait can be stopped', async () => {
    const { thread, next } = start(
      'send("here"); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);',
    );
    await next();
    await thread.stop();
  });
});
