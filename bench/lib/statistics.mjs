// @ts-check
/** Summaries of repeated measurements. */

/**
 * @typedef {{ median: number, min: number, max: number, repetitions: number, values: number[] }} Spread
 */

/**
 * The middle value and the ends; throws for none.
 * @param {readonly number[]} values
 * @returns {Spread}
 */
export function spread(values) {
  if (values.length === 0) throw new Error('no values to summarize');
  const sorted = [...values].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const at = (/** @type {number} */ index) => /** @type {number} */ (sorted[index]);
  return {
    median: (at(Math.floor(middle)) + at(Math.ceil(middle))) / 2,
    min: at(0),
    max: at(sorted.length - 1),
    repetitions: values.length,
    values: values.map((value) => significant(value)),
  };
}

/**
 * Rounded to so many significant digits: what a measurement is good for, and short in JSON.
 * @param {number} value
 */
export function significant(value, digits = 4) {
  return Number(value.toPrecision(digits));
}
