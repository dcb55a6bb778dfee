/** What targets share about the requests of a step. */
import { LutraError } from '../common/errors.ts';
import { type StepTables, stepTables } from '../loops/step.ts';
import { type CacheHandle, MAX_SEQUENCES, type StepRequest } from './executable.ts';

/**
 * The tables of a step; `cacheLine` says where a cache lies, undefined if it was freed or belongs elsewhere;
 * `scan` asks for bounds of the logits.
 * Throws `internal` for requests that cannot be one step. Tokens are copied: callers may reuse their arrays.
 */
export function batchTables(
  requests: readonly StepRequest[],
  cacheLine: (cache: CacheHandle) => number | undefined,
  scan = false,
): StepTables {
  if (requests.length < 1 || requests.length > MAX_SEQUENCES) {
    throw new LutraError('internal', `a step takes 1 to ${MAX_SEQUENCES} sequences, not ${requests.length}`);
  }
  const used = new Set<CacheHandle>();
  const sequences = requests.map(({ tokens, position, cache, logits }) => {
    if (tokens.length === 0) throw new LutraError('internal', 'a step needs at least one token');
    if (used.has(cache)) throw new LutraError('internal', 'two sequences of a step have the same KV cache');
    used.add(cache);
    const line = cacheLine(cache);
    if (line === undefined) {
      throw new LutraError('internal', 'the KV cache was freed or is of another executable');
    }
    return { tokens, position, cache: line, logits };
  });
  return stepTables(sequences, scan);
}
