/** Guesses must promise this many times the tokens in the time: what they bring is estimated, and costs vary. */
const LEAST_GAIN = 1.05;
/** Guesses that a step may have. */
const MOST_GUESSES = 15;
/** What each token more in a step is taken to cost until it was measured. */
const FIRST_GUESS_COST = 0.3;
/** How much of an average a new value makes up at least; of the first few, all count alike. */
const SHARE = 0.15;
/** A measurement counts as at most so many times what was expected: other programs disturb. */
const OUTLIER = 2;
/** How much of what was seen of guesses is still counted after another one. */
const MEMORY = 0.9;
/** Steps without guesses that may be lost at first, and what each of them adds. */
const START = 1;
const INCOME = 0.005;
/** More is not saved up, so that text that changes costs little. */
const SAVINGS = 6;

interface Average {
  readonly value: number;
  readonly count: number;
}

interface Seen {
  readonly held: number;
  readonly failed: number;
}

/**
 * What steps with guesses cost, of a model: measured, and an account of what guessing cost and brought in all of its
 * sessions. It is in units of a step without guesses. Guesses that hold pay in what they saved, those that fail are
 * paid from it; every step without guesses adds a little. Guesses must be covered by it should they fail, so that
 * all they can lose is what was there at the start and the little.
 */
export class GuessCosts {
  /** Milliseconds, from anywhere. */
  readonly now: () => number;
  /** Of a step of one token, in milliseconds; undefined before the first. */
  #single: Average | undefined;
  /** [guesses] of a step with so many, in steps of one token; undefined where none was measured. */
  readonly #costs: (Average | undefined)[] = [{ value: 1, count: 1 }];
  #account = START;

  constructor(now: () => number = () => performance.now()) {
    this.now = now;
  }

  get known(): boolean {
    return this.#single !== undefined;
  }

  /** A step with so many guesses took so long. */
  measured(guesses: number, milliseconds: number): void {
    if (guesses === 0) {
      this.#single = average(this.#single, milliseconds);
      this.#pay(INCOME);
    } else if (this.#single !== undefined && this.#single.value > 0) {
      const cost = milliseconds / this.#single.value;
      this.#costs[guesses] = average(this.#costs[guesses], Math.max(cost, 1));
      this.#account -= Math.min(cost, OUTLIER * this.of(guesses)) - 1;
    }
  }

  /** So many guesses held, each of which saved a step. */
  held(guesses: number): void {
    this.#pay(guesses);
  }

  #pay(steps: number): void {
    this.#account = Math.min(SAVINGS, this.#account + steps);
  }

  /** Whether so many guesses may fail, with `rest` left over. */
  covers(guesses: number, rest = 0): boolean {
    return this.#account >= rest + this.of(guesses) - 1;
  }

  /** Of a step with so many guesses: measured, or from the nearest that was. */
  of(guesses: number): number {
    const known = this.#costs[guesses];
    if (known !== undefined) return known.value;
    let [below, above] = [guesses - 1, guesses + 1];
    while (this.#costs[below] === undefined) below--;
    while (above <= MOST_GUESSES && this.#costs[above] === undefined) above++;
    const low = this.#costs[below]!.value;
    const high = this.#costs[above]?.value;
    if (high !== undefined) return low + ((high - low) * (guesses - below)) / (above - below);
    const each = below === 0 ? FIRST_GUESS_COST : (low - 1) / below;
    return low + each * (guesses - below);
  }
}

/**
 * Decides how many tokens to guess, by how often guesses held in a conversation and by what their checking costs:
 * whatever it decides, only time depends on it. Where guesses do not seem to pay, one is tried whenever the account
 * has more than at the start.
 */
export class GuessPolicy {
  readonly costs: GuessCosts;
  /** By the length of the match that was guessed by. */
  readonly #seen = new Map<number, Seen>();

  constructor(costs: GuessCosts) {
    this.costs = costs;
  }

  /** Of so many guesses by a match of a length, so many held before the first that did not. */
  checked(matched: number, guesses: number, held: number): void {
    const seen = this.#of(matched);
    const failed = held < guesses ? 1 : 0;
    this.#seen.set(matched, { held: MEMORY * seen.held + held, failed: MEMORY * seen.failed + failed });
    this.costs.held(held);
  }

  #of(matched: number): Seen {
    return this.#seen.get(matched) ?? { held: 1, failed: 1 };
  }

  /** Guesses to make by a match of that length, 0 to `most`. */
  width(matched: number, most: number): number {
    const { costs } = this;
    if (!costs.known) return 0;
    const { held, failed } = this.#of(matched);
    const chance = held / (held + failed);
    let best = 0;
    let bestRate = LEAST_GAIN;
    let tokens = 1;
    let power = 1;
    for (let guesses = 1; guesses <= most && costs.covers(guesses); guesses++) {
      power *= chance;
      tokens += power;
      const rate = tokens / costs.of(guesses);
      if (rate > bestRate) [best, bestRate] = [guesses, rate];
    }
    if (best > 0) return best;
    return most > 0 && costs.covers(1, START) ? 1 : 0;
  }
}

function average(before: Average | undefined, value: number): Average {
  if (before === undefined) return { value, count: 1 };
  const count = before.count + 1;
  const share = Math.max(SHARE, 1 / count);
  return { value: before.value + share * (Math.min(value, OUTLIER * before.value) - before.value), count };
}
