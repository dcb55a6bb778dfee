import type { Logits, SelectLogits } from '../targets/executable.ts';
import { proposeTokens } from './prompt-lookup.ts';
import type { Sequence } from './sequence.ts';

const INITIAL_WIDTH = 4;

/**
 * Steps through a sequence token by token, computing several positions at once where a guess about the next
 * tokens can be made. The caller samples from `logits()` and says with `advance` what it took: if that is
 * what was guessed, the logits after it are there already; if not, the guesses are forgotten and the token is
 * computed. Since a token's result does not depend on its batch, nothing changes but the time it takes.
 */
export class Lookahead {
  readonly #sequence: Sequence;
  readonly #select: (guesses: readonly number[]) => SelectLogits | undefined;
  readonly #limit: number;
  /** Guesses to make next time: fewer after a wrong one, more after a run of right ones. */
  #width: number;
  /** Tokens computed beyond the caller's position, and the logits of each. */
  #guessed: readonly number[] = [];
  #rows: readonly Logits[];
  /** Tokens of the sequence that the caller has taken. */
  #taken: number;
  /** `accepted` when the width was last adapted. */
  #rewarded = 0;
  proposed = 0;
  accepted = 0;

  /**
   * `logits` are those after the sequence's last token; `limit` the guesses per step, 0 for none. `select` says
   * which logits of a step matter to the caller, given the guesses in it; undefined: all.
   */
  constructor(
    sequence: Sequence,
    logits: Logits,
    limit: number,
    select: (guesses: readonly number[]) => SelectLogits | undefined,
  ) {
    this.#sequence = sequence;
    this.#select = select;
    this.#limit = limit;
    this.#width = Math.min(limit, INITIAL_WIDTH);
    this.#rows = [logits];
    this.#taken = sequence.tokens.length;
  }

  /** Tokens computed and taken. */
  get position(): number {
    return this.#taken;
  }

  /** Logits at the caller's position. */
  logits(): Logits {
    return this.#rows[0]!;
  }

  /** Moves on by a token; afterwards `logits` are those that follow it. */
  async advance(token: number): Promise<void> {
    if (this.#guessed[0] === token) {
      this.accepted++;
      this.#taken++;
      this.#guessed = this.#guessed.slice(1);
      this.#rows = this.#rows.slice(1);
      return;
    }
    this.#adapt();
    this.drop();
    const room = this.#sequence.context - this.#taken - 1;
    const history = [...this.#sequence.tokens, token];
    const count = Math.min(this.#width, room);
    const guesses = count > 0 ? proposeTokens(history, count) : [];
    this.#rows = await this.#sequence.forwardSelected(
      [token, ...guesses],
      guesses.length > 0 ? 'all' : 'last',
      this.#select(guesses),
    );
    this.#guessed = guesses;
    this.#taken++;
    this.proposed += guesses.length;
  }

  #adapt(): void {
    if (this.#guessed.length > 0) this.#width = Math.max(Math.min(this.#limit, 1), this.#width >> 1);
    else if (this.#rows.length === 1 && this.accepted > this.#rewarded) {
      this.#width = Math.min(this.#limit, this.#width * 2);
    }
    this.#rewarded = this.accepted;
  }

  /** Forgets guesses that were not taken, so that the sequence ends at the caller's position. */
  drop(): void {
    this.#sequence.rewind(this.#taken);
    this.#guessed = [];
  }
}
