/** The smallest multiple of `step` that is at least `value`. */
export function alignUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}

/** 0, 1, ... below `count`. */
export function range(count: number): readonly number[] {
  return Array.from({ length: count }, (_, i) => i);
}

/** Rounds to the nearest integer, ties to even: what x86, ARM and WebAssembly do, and Math.round does not. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const fraction = value - floor;
  if (fraction < 0.5) return floor;
  if (fraction > 0.5) return floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The middle of some values, or the mean of the two in the middle. Throws a RangeError for none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const [low, high] = [sorted[Math.floor(middle)], sorted[Math.ceil(middle)]];
  if (low === undefined || high === undefined) throw new RangeError('no values to take the median of');
  return (low + high) / 2;
}
