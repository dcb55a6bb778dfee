import { afterEach, describe, expect, test, vi } from 'vitest';
import { browserPlatform } from './browser.ts';

/** A Worker as browsers have it, run by hand. */
class FakeWorker {
  static last: FakeWorker;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: ((event: { message: string; preventDefault(): void }) => void) | null = null;
  readonly url: string;
  readonly posted: unknown[] = [];
  terminated = false;

  constructor(url: string) {
    this.url = url;
    FakeWorker.last = this;
  }

  postMessage(message: unknown): void {
    this.posted.push(message);
  }

  terminate(): void {
    this.terminated = true;
  }
}

afterEach(() => {
  vi.unstubAllGlobals();
});

function start(source: string) {
  vi.stubGlobal('Worker', FakeWorker);
  const events: unknown[] = [];
  const thread = browserPlatform.startThread(source, {
    message: (message) => events.push(message),
    failure: (error) => events.push(error),
  });
  return { thread, events, worker: FakeWorker.last };
}

describe('threads of browsers', () => {
  test('the script is a blob that defines send and receive', async () => {
    const { worker } = start('receive((x) => send(x + 1));');
    const script = await (await fetch(worker.url)).text();
    const self = { onmessage: (_: { data: number }) => {}, postMessage: vi.fn() };
    new Function('self', script)(self);
    self.onmessage({ data: 41 });
    expect(self.postMessage).toHaveBeenCalledWith(42, undefined);
  });

  test('messages go both ways; a failure ends the worker', () => {
    const { thread, events, worker } = start('');
    thread.post('question');
    worker.onmessage!({ data: 'answer' });
    worker.onerror!({ message: 'broken', preventDefault: () => {} });
    expect(worker.posted).toEqual(['question']);
    expect(events).toEqual(['answer', new Error('broken')]);
    expect(worker.terminated).toBe(true);
  });

  test('a stopped thread reports nothing', async () => {
    const { thread, worker } = start('');
    await thread.stop();
    expect(worker).toMatchObject({ terminated: true, onmessage: null, onerror: null });
  });

  test('memory is shared only on isolated pages', () => {
    expect(browserPlatform.sharedMemory).toBe(false);
  });
});
