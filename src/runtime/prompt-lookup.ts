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
export class PromptLookup {
  readonly #tokens: number[] = [];
  /** Of every pair of tokens the index after its latest occurrence, and of every index the one before it. */
  readonly #latest = new Map<number, number>();
  readonly #before: number[] = [-1, -1];

  push(token: number): void {
    const at = this.#tokens.push(token);
    if (at < SHORTEST) return;
    const key = this.#pair();
    this.#before[at] = this.#latest.get(key) ?? -1;
    this.#latest.set(key, at);
  }

  #pair(): number {
    const { length } = this.#tokens;
    // Below 2^53 for any vocabulary below 2^26.
    return this.#tokens[length - 2]! * 2 ** 26 + this.#tokens[length - 1]!;
  }

  /** What followed the longest match, at most `count` tokens, and how long that is; undefined without one. */
  propose(count: number): { readonly matched: number; readonly tokens: readonly number[] } | undefined {
    const tokens = this.#tokens;
    let [start, matched] = [-1, 0];
    for (let at = this.#before[tokens.length] ?? -1; at >= 0 && matched < LONGEST; at = this.#before[at]!) {
      let same = SHORTEST;
      while (same < LONGEST && same < at && tokens[at - 1 - same] === tokens[tokens.length - 1 - same])
        same++;
      if (same > matched) [start, matched] = [at, same];
    }
    return start < 0 ? undefined : { matched, tokens: tokens.slice(start, start + count) };
  }
}

/** Longer matches say no more; a single token recurs too often by chance to be worth a try. */
export const LONGEST = 4;
const SHORTEST = 2;
