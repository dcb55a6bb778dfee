/**
 * Which values the codes of a group stand for: the scale and the zero of least squared error among some, for up to
 * four bits. The nearest code to every weight from the smallest to the largest one, as more bits have it, spends few
 * codes on what is rare.
 */
import { f16ToF32, f32ToF16 } from '../../common/halves.ts';
import type { CodeBits } from '../../graph/ir.ts';
import { middleCode } from './matrix.ts';

/** A code stands for scale * (code - zero); the scale is an f16, and may be negative where zero is in the middle. */
export interface Grid {
  readonly scale: number;
  readonly zero: number;
}

/** Adding and subtracting it rounds a small float64 to an integer, ties to even. */
export const ROUND = 1.5 * 2 ** 52;

/** Multiplied by it and subtracted from the product, a float64 loses all but 11 bits (Veltkamp). */
const SPLIT = 2 ** 42 + 1;

/** The nearest f16, as a number: of normal ones at once. */
function toF16(value: number): number {
  const magnitude = Math.abs(value);
  if (magnitude < 2 ** -14 || magnitude > 65504) return f16ToF32(f32ToF16(value));
  const product = value * SPLIT;
  return product - (product - value);
}

/**
 * Scales to try, in those that make codes reach from the smallest to the largest weight: what normally distributed
 * groups of 32 to 256 want, and around it.
 */
const FACTORS: Readonly<Record<2 | 3 | 4, readonly number[]>> = {
  2: [0.6, 0.72, 0.5, 0.85, 0.4],
  3: [0.8, 0.7, 0.9, 0.6, 7 / 6],
  4: [0.9, 0.95, 0.85, 0.8, 15 / 14],
};

/** Weights after which a grid is given up that is worse already. */
const STRETCH = 32;

/** Steps of least squares from the best of those. */
const REFINEMENTS = 2;

/** Finds grids of groups, one after the other. */
export class GridSearch {
  readonly #bits: CodeBits;
  readonly #symmetric: boolean;
  readonly #values: Float64Array;
  #count = 0;
  #best: Grid = { scale: 0, zero: 0 };
  #least = 0;

  /** For groups of at most `group` weights. */
  constructor(bits: CodeBits, group: number, symmetric: boolean) {
    this.#bits = bits;
    this.#symmetric = symmetric;
    this.#values = new Float64Array(group);
  }

  /** The grid of values[from .. end); its scale is not finite where no f16 is large enough. */
  find(values: Float32Array, from: number, end: number): Grid {
    this.#count = end - from;
    let [low, high, sum] = [0, 0, 0];
    for (let i = 0; i < this.#count; i++) {
      const value = values[from + i]!;
      this.#values[i] = value;
      if (value < low) low = value;
      if (value > high) high = value;
      sum += Math.abs(value);
    }
    const bits = this.#bits;
    // One bit without a zero has two values, and their mean magnitude is the best for both.
    if (bits === 1 && this.#symmetric) return { scale: toF16((2 * sum) / this.#count), zero: middleCode(1) };
    const start = this.#symmetric ? this.#evenGrid(low, high) : this.#fullGrid(low, high);
    if (bits === 8 || bits === 6 || bits === 1 || start.scale === 0) return start;
    this.#least = Number.POSITIVE_INFINITY;
    this.#least = this.#error(start);
    this.#best = start;
    const whole = (high - low) / (2 ** bits - 1);
    for (const factor of FACTORS[bits]) {
      if (this.#symmetric) this.#tryBothWays(toF16(start.scale * factor), start.zero);
      else this.#tryAround(toF16(whole * factor), (low + high) / 2);
    }
    // Trits, whose largest is a step.
    const trit = toF16(Math.max(-low, high));
    if (this.#symmetric) this.#tryBothWays(trit, start.zero);
    else this.#tryAround(trit, (low + high) / 2);
    for (let i = 0; i < REFINEMENTS; i++) this.#try(this.#fitted());
    return this.#best;
  }

  /** From the smallest to the largest value, with 0 among the values that codes stand for. */
  #fullGrid(low: number, high: number): Grid {
    const largest = 2 ** this.#bits - 1;
    const scale = toF16((high - low) / largest);
    return { scale, zero: scale === 0 ? 0 : Math.min(largest, Math.round(-low / scale)) };
  }

  /** Steps of the extreme value's size, in its direction, since there is a code more for one sign than for the other. */
  #evenGrid(low: number, high: number): Grid {
    const extreme = -low > high ? low : high;
    const zero = middleCode(this.#bits);
    return { scale: toF16(-extreme / zero), zero };
  }

  #tryBothWays(scale: number, zero: number): void {
    this.#try({ scale, zero });
    this.#try({ scale: -scale, zero });
  }

  /** The two grids of this step whose middle is nearest to `middle`. */
  #tryAround(scale: number, middle: number): void {
    if (scale === 0) return;
    const largest = 2 ** this.#bits - 1;
    const exact = largest / 2 - middle / scale;
    const below = Math.min(largest, Math.max(0, Math.floor(exact)));
    this.#try({ scale, zero: below });
    if (below < largest && exact > 0) this.#try({ scale, zero: below + 1 });
  }

  #try(grid: Grid): void {
    if (grid.scale === 0) return;
    const error = this.#error(grid);
    if (error < this.#least) [this.#best, this.#least] = [grid, error];
  }

  #error({ scale, zero }: Grid): number {
    const values = this.#values;
    const [low, high] = [-zero, 2 ** this.#bits - 1 - zero];
    const inverse = 1 / scale;
    let sum = 0;
    for (let i = 0; i < this.#count; ) {
      const end = Math.min(this.#count, i + STRETCH);
      for (; i < end; i++) {
        const value = values[i]!;
        let code = value * inverse + ROUND - ROUND;
        if (code < low) code = low;
        else if (code > high) code = high;
        const off = value - code * scale;
        sum += off * off;
      }
      if (sum > this.#least) return sum;
    }
    return sum;
  }

  /** The scale of least squares for the codes that the best grid gives. */
  #fitted(): Grid {
    const values = this.#values;
    const { scale, zero } = this.#best;
    const [low, high] = [-zero, 2 ** this.#bits - 1 - zero];
    const inverse = 1 / scale;
    let [products, squares] = [0, 0];
    for (let i = 0; i < this.#count; i++) {
      const value = values[i]!;
      const code = Math.min(high, Math.max(low, value * inverse + ROUND - ROUND));
      products += code * value;
      squares += code * code;
    }
    return { scale: squares === 0 ? 0 : toF16(products / squares), zero };
  }
}
