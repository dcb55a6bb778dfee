import type { Generation, GenerationResult } from '../runtime/types.ts';

/**
 * A generation that runs whether or not anybody iterates it: pieces queue up until they are read. Leaving
 * the loop early cancels what is still to come, as any of the signals does.
 */
export function startGeneration(
  run: (emit: (piece: string) => void, signal: AbortSignal) => Promise<GenerationResult>,
  signals: readonly AbortSignal[],
): Generation {
  const left = new AbortController();
  const queue: string[] = [];
  let wake: () => void = () => undefined;
  let ended = false;
  const emit = (piece: string) => {
    queue.push(piece);
    wake();
  };
  const result = run(emit, AbortSignal.any([left.signal, ...signals])).finally(() => {
    ended = true;
    wake();
  });
  // A caller who only iterates meets the error there; it must not also count as unhandled.
  result.catch(() => undefined);

  async function* pieces(): AsyncGenerator<string, void> {
    try {
      for (;;) {
        const piece = queue.shift();
        if (piece !== undefined) {
          yield piece;
        } else if (ended) {
          await result;
          return;
        } else {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
    } finally {
      left.abort();
    }
  }
  return { result, [Symbol.asyncIterator]: pieces };
}
