/**
 * Proposes what may come next by looking at what came before ("prompt lookup decoding", Saxena 2023): the
 * last tokens are searched for earlier in the sequence, latest occurrence first and longest match first, and
 * the tokens that followed them then are proposed. Text that quotes, lists or repeats code is full of these.
 *
 * ```
 * ... a proud fox named Penny . Penny had ... said Penny . Penny   ->  proposes "had ..."
 *                 ^^^^^^^^^^^^^                ^^^^^^^^^^^^^
 * ```
 */
export function proposeTokens(history: readonly number[], count: number): readonly number[] {
  for (const length of MATCH_LENGTHS) {
    const start = findEarlier(history, length);
    if (start >= 0) return history.slice(start, start + count);
  }
  return [];
}

/** A single token recurs too often by chance to be worth a try. */
const MATCH_LENGTHS = [4, 3, 2] as const;

/** Index after the latest earlier occurrence of the last `length` tokens; -1 if there is none. */
function findEarlier(history: readonly number[], length: number): number {
  const tail = history.length - length;
  for (let at = tail - 1; at >= 0; at--) {
    let same = 0;
    while (same < length && history[at + same] === history[tail + same]) same++;
    if (same === length) return at + length;
  }
  return -1;
}
