import type { Logits, SelectLogits } from '../targets/executable.ts';
import type { GuessPolicy } from './guess-policy.ts';
import { PromptLookup } from './prompt-lookup.ts';
import type { Sequence } from './sequence.ts';

/** Guesses of a step, and by how long a match they were made. */
interface Guess {
  readonly tokens: readonly number[];
  readonly matched: number;
}

type Steps = Pick<Sequence, 'context' | 'tokens' | 'forwardSelected' | 'release' | 'rewind'>;

/**
 * Steps through a sequence token by token, computing several positions at once where a guess about the next
 * tokens can be made and is likely to pay. The caller samples from `logits()` and says with `advance` what it took:
 * if that is what was guessed, the logits after it are there already; if not, the guesses are forgotten and the
 * token is computed. Since a token's result does not depend on its batch, nothing changes but the time it takes.
 */
export class Lookahead {
  readonly #sequence: Steps;
  readonly #select: (guesses: readonly number[]) => SelectLogits | undefined;
  readonly #limit: number;
  readonly #policy: GuessPolicy;
  readonly #lookup: PromptLookup | undefined;
  /** Guesses under way, and how many of them were taken. */
  #guess: Guess | undefined;
  #held = 0;
  #rows: readonly Logits[];
  /** Tokens of the sequence that the caller has taken. */
  #taken: number;
  proposed = 0;
  accepted = 0;

  /**
   * `logits` are those after the sequence's last token, and nobody else's; `limit` the guesses per step, 0 for none. `select` says
   * which logits of a step matter to the caller, given the guesses in it; undefined: all. `policy` learns from one
   * generation for the next.
   */
  constructor(
    sequence: Steps,
    logits: Logits,
    limit: number,
    select: (guesses: readonly number[]) => SelectLogits | undefined,
    policy: GuessPolicy,
  ) {
    this.#sequence = sequence;
    this.#select = select;
    this.#limit = limit;
    this.#policy = policy;
    this.#rows = [logits];
    this.#taken = sequence.tokens.length;
    if (limit === 0) return;
    this.#lookup = new PromptLookup();
    for (const token of sequence.tokens) this.#lookup.push(token);
  }

  /** Tokens computed and taken. */
  get position(): number {
    return this.#taken;
  }

  /** Logits at the caller's position, until `advance`. */
  logits(): Logits {
    return this.#rows[0]!;
  }

  /** Moves on by a token; afterwards `logits` are those that follow it. */
  async advance(token: number): Promise<void> {
    this.#lookup?.push(token);
    if (this.#guess?.tokens[this.#held] === token) {
      this.accepted++;
      this.#held++;
      this.#taken++;
      this.#rows = this.#rows.slice(1);
      return;
    }
    this.#finish();
    for (const row of this.#rows) this.#sequence.release(row);
    const guess = this.#propose();
    const guesses = guess?.tokens ?? [];
    const { now } = this.#policy.costs;
    const start = now();
    this.#rows = await this.#sequence.forwardSelected(
      [token, ...guesses],
      guesses.length > 0 ? 'all' : 'last',
      this.#select(guesses),
    );
    if (this.#lookup !== undefined) this.#policy.costs.measured(guesses.length, now() - start);
    this.#guess = guess;
    this.#taken++;
    this.proposed += guesses.length;
  }

  #propose(): Guess | undefined {
    const room = Math.min(this.#limit, this.#sequence.context - this.#taken - 1);
    const found = room > 0 ? this.#lookup?.propose(room) : undefined;
    if (found === undefined) return undefined;
    const width = this.#policy.width(found.matched, found.tokens.length);
    return width === 0 ? undefined : { ...found, tokens: found.tokens.slice(0, width) };
  }

  /** Takes account of the guesses under way and forgets what is left of them. */
  #finish(): void {
    const guess = this.#guess;
    if (guess !== undefined) this.#policy.checked(guess.matched, guess.tokens.length, this.#held);
    this.#guess = undefined;
    this.#held = 0;
    this.#sequence.rewind(this.#taken);
  }

  /** Forgets guesses that were not taken, so that the sequence ends at the caller's position. */
  drop(): void {
    // Those that nobody got to say nothing about guessing.
    if (this.#guess !== undefined) {
      const { tokens, matched } = this.#guess;
      this.#guess = { matched, tokens: tokens.slice(0, this.#held) };
    }
    this.#finish();
  }
}
