/** How bytes that were looked up are added: exactly, or as means of some (tables `fast`). */
import { range } from '../../common/math.ts';
import type { FunctionBuilder } from '../../loops/builder.ts';
import { add, and, binary, bitcast, constant, shift, sub, vector } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { SPAN } from '../group/bit-planes.ts';
import { type LutSchedule, MEANS } from './shape.ts';
import { BASE_BITS, QUAD, type TableForm } from './tables.ts';

/** Lookups in a span, and of `exact` tables those that are added in bytes. */
const QUADS = SPAN / QUAD;

/**
 * Adds up bytes one by one; or takes averages of neighbours, then of those, ...: the mean of a power of two, rounded
 * up a little at every level. What is known at any time is in few registers.
 */
class ByteSums {
  readonly #b: FunctionBuilder;
  readonly #averages: boolean;
  /** Of bytes taken together, the latest last, and how many. */
  readonly #pending: { readonly bytes: Expr; readonly count: number }[] = [];

  constructor(b: FunctionBuilder, averages: boolean) {
    this.#b = b;
    this.#averages = averages;
  }

  take(bytes: Expr): void {
    let [sum, count] = [bytes, 1];
    const last = () => this.#pending.at(-1);
    while (this.#averages ? last()?.count === count : last() !== undefined) {
      const other = this.#pending.pop()!;
      const joined = this.#averages ? binary('averageRound', other.bytes, sum) : add(other.bytes, sum);
      sum = this.#b.let('sum', joined);
      count += other.count;
    }
    this.#pending.push({ bytes: sum, count });
  }

  get(): Expr {
    return this.#pending[0]!.bytes;
  }
}

const wordsOf = (bytes: Expr) => bitcast(bytes, vector('u16', bytes.type.lanes / 2));

/** Lookups of some tables, those of kind 0 and of kind 1 (of exact entries, their halves) apart. */
interface Sums {
  readonly take: (kind: number, found: Expr) => void;
  /** Values that add up over more tables, and over planes of weights. */
  readonly get: () => readonly Expr[];
}

export interface Adder {
  /** Columns whose sums `start` begins: at most so many, a power of two. */
  readonly columns: number;
  readonly start: () => Sums;
  /** What sums of nothing are, for so many rows. */
  readonly zeros: (lanes: number) => readonly Expr[];
  /** Whether sums of a plane are rather shifted than doubled with those of higher planes: where they are few. */
  readonly shifts: boolean;
  /** How many planes there is room for, of so many times so many lookups. */
  readonly planes: (lookups: number, times: number) => number;
  /**
   * Sums as u16 of the even rows and of the odd ones, of every kind and what that counts (as a power of two): such as
   * `start` gave of so many lookups, added up so many times.
   */
  readonly split: (sums: readonly Expr[], lookups: number, times: number) => readonly Halves[];
}

export interface Halves {
  readonly even: Expr;
  readonly odd: Expr;
  readonly shift: number;
}

/** Planes that add up to at most `limit`, where one has at most `largest`. */
const planesWithin = (limit: number, largest: number) => Math.floor(Math.log2(limit / largest + 1));

/**
 * Bytes as 16-bit words: sums of whole words, where odd bytes count 256, and of odd bytes alone. Of `exact` tables 8
 * lookups add up in a byte before, of `fast` ones a mean is taken, so that sums are in units of `MEANS`.
 */
function wordAdder(b: FunctionBuilder, tables: TableForm, { columns }: LutSchedule): Adder {
  const kinds = tables === 'exact' ? 2 : 1;
  const perWord = { exact: QUADS, fast: MEANS, int8: 1, bits: 1 }[tables];
  return {
    columns,
    start() {
      const words = range(kinds).map((): { all?: Expr; odd?: Expr } => ({}));
      const bytes = words.map(() => ({ sums: new ByteSums(b, tables === 'fast'), count: 0 }));
      return {
        take(kind, found) {
          const held = bytes[kind]!;
          held.sums.take(found);
          if (++held.count < perWord) return;
          const whole = b.let('word', wordsOf(held.sums.get()));
          const high = shift('right', whole, 8);
          const { all, odd } = words[kind]!;
          words[kind] = {
            all: all === undefined ? whole : b.let('all', add(all, whole)),
            odd: b.let('odd', odd === undefined ? high : add(odd, high)),
          };
          bytes[kind] = { sums: new ByteSums(b, tables === 'fast'), count: 0 };
        },
        get: () => words.flatMap(({ all, odd }) => [all!, odd!]),
      };
    },
    zeros: (lanes) => range(2 * kinds).map(() => constant(vector('u16', lanes / 2), 0)),
    shifts: perWord > 1,
    planes(lookups, times) {
      const entries = (lookups * times) / (tables === 'fast' ? MEANS : 1);
      return planesWithin(65535, (tables === 'exact' ? 31 : 255) * entries);
    },
    split(sums, lookups, times) {
      const halves = (all: Expr, odd: Expr, by: number) => ({
        even: sub(all, shift('left', odd, 8)),
        odd,
        shift: by,
      });
      const [all, odd, highAll, highOdd] = sums;
      if (highAll === undefined || highOdd === undefined) return [halves(all!, odd!, 0)];
      const most = 2 ** (2 * BASE_BITS) - 1;
      if (most * lookups * times > 65535) return [halves(all!, odd!, 0), halves(highAll, highOdd, BASE_BITS)];
      const join = (low: Expr, high: Expr) => b.let('joined', add(low, shift('left', high, BASE_BITS)));
      return [halves(join(all!, highAll), join(odd!, highOdd), 0)];
    },
  };
}

/**
 * Exact sums of bytes without widening each: the mean by averages, rounded up by at most a half a level, says the sum
 * within less than 256; the sum in bytes, modulo 256, says which.
 */
function averageAdder(b: FunctionBuilder, { columns }: LutSchedule): Adder {
  return {
    columns,
    start() {
      const [means, sums] = [new ByteSums(b, true), new ByteSums(b, false)];
      return {
        take(_, found) {
          means.take(found);
          sums.take(found);
        },
        get() {
          const mean = b.let('mean', wordsOf(means.get()));
          return [b.let('even', and(mean, 255)), b.let('odd', shift('right', mean, 8)), sums.get()];
        },
      };
    },
    zeros(lanes) {
      const word = constant(vector('u16', lanes / 2), 0);
      return [word, word, constant(vector('u8', lanes), 0)];
    },
    shifts: false,
    planes(lookups, times) {
      const excess = (lookups * Math.log2(lookups)) / 2;
      return Math.min(planesWithin(255, excess * times), planesWithin(65535, 255 * lookups * times));
    },
    split([even, odd, sum], lookups) {
      const low = b.let('low', wordsOf(sum!));
      const exact = (mean: Expr, residue: Expr) => {
        const most = b.let('most', shift('left', mean, Math.log2(lookups)));
        return b.let('words', sub(most, and(sub(most, residue), 255)));
      };
      return [{ even: exact(even!, low), odd: exact(odd!, shift('right', low, 8)), shift: 0 }];
    },
  };
}

export function adderOf(b: FunctionBuilder, tables: TableForm, schedule: LutSchedule): Adder {
  return tables === 'int8' && schedule.sums === 'averages'
    ? averageAdder(b, schedule)
    : wordAdder(b, tables, schedule);
}
