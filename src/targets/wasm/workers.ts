import { LutraError } from '../../common/errors.ts';
import type { Platform, Thread } from '../../platform/platform.ts';
import { noMemory } from './team.ts';
import type { Reply } from './worker-scripts.ts';

type Done = Extract<Reply, { kind: 'done' }>;

export interface Workers {
  /** Hands out work by `post` and waits for the reply, which may come from any of the threads. */
  ask(post: (threads: readonly Thread[]) => void): Promise<Done>;
  stop(): Promise<void>;
}

interface Waiting {
  resolve(reply: Done): void;
  reject(error: Error): void;
}

/**
 * Starts a thread for each setup and waits until all are ready. Once one of them fails, all are stopped:
 * the others may be waiting for it in a barrier.
 */
export async function startWorkers(
  platform: Platform,
  script: string,
  setups: readonly unknown[],
): Promise<Workers> {
  let threads: Thread[] = [];
  let waiting: Waiting | undefined;
  let broken: LutraError | undefined;
  let starting = setups.length;

  const settle = (act: (waiting: Waiting) => void) => {
    const current = waiting;
    waiting = undefined;
    if (current !== undefined) act(current);
  };
  const stop = async (reason: LutraError) => {
    broken ??= reason;
    settle(({ reject }) => reject(reason));
    const stopped = threads;
    threads = [];
    await Promise.all(stopped.map((thread) => thread.stop()));
  };
  const onMessage = (reply: Reply) => {
    switch (reply.kind) {
      case 'ready':
        starting--;
        if (starting === 0) settle(({ resolve }) => resolve({ kind: 'done' }));
        break;
      case 'done':
        settle(({ resolve }) => resolve(reply));
        break;
      case 'failure':
        void stop(reply.memory ? noMemory(undefined, reply.message) : crashed(reply.message));
        break;
    }
  };

  const ask: Workers['ask'] = (post) =>
    new Promise<Done>((resolve, reject) => {
      if (broken !== undefined) throw broken;
      post(threads);
      waiting = { resolve, reject };
      // One thread that keeps the process alive is enough for messages of all of them to arrive.
      threads[0]?.keepAlive(true);
    }).finally(() => threads[0]?.keepAlive(false));

  threads = setups.map(() =>
    platform.startThread(script, {
      message: (message) => onMessage(message as Reply),
      failure: (error) => void stop(crashed(error.message)),
    }),
  );
  await ask(() => {
    threads.forEach((thread, i) => {
      thread.post(setups[i]);
    });
  });
  for (const thread of threads) thread.keepAlive(false);
  return {
    ask,
    stop: () => stop(new LutraError('cancelled', 'wasm: the executable was closed')),
  };
}

function crashed(message: string): LutraError {
  return new LutraError('internal', `wasm: a thread failed: ${message}`, {
    hint: 'The model has to be loaded again; please report how this came about.',
  });
}
