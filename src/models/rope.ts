import type { RopeScaling, WeightSource } from '../graph/ir.ts';

type RopeTable = Extract<WeightSource, { readonly kind: 'rope-table' }>;

/** Llama 3.1's scaling of one frequency (transformers' `_compute_llama3_parameters`). */
function scaleFrequency(frequency: number, scaling: RopeScaling): number {
  const { factor, lowFactor, highFactor, originalContext } = scaling;
  const turns = (originalContext * frequency) / (2 * Math.PI); // in the original context
  if (turns < lowFactor) return frequency / factor;
  if (turns > highFactor) return frequency;
  const share = (turns - lowFactor) / (highFactor - lowFactor);
  return ((1 - share) * frequency) / factor + share * frequency;
}

/** The headDim/2 rotary frequencies, in radians a position, each divided by its divisor or the only one. */
export function ropeFrequencies(
  theta: number,
  headDim: number,
  scaling?: RopeScaling,
  divisors: readonly number[] = [1],
): Float64Array {
  return Float64Array.from({ length: headDim / 2 }, (_, i) => {
    const frequency = theta ** ((-2 * i) / headDim);
    const scaled = scaling === undefined ? frequency : scaleFrequency(frequency, scaling);
    return scaled / divisors[divisors.length === 1 ? 0 : i]!;
  });
}

/** [positions, headDim]: the cosines of a position's angles, then their sines, times the magnitude. */
export function ropeTable(source: RopeTable): Float64Array {
  const { theta, headDim, positions, scaling, divisors, magnitude = 1 } = source;
  const frequencies = ropeFrequencies(theta, headDim, scaling, divisors);
  const half = frequencies.length;
  const table = new Float64Array(positions * headDim);
  for (let position = 0; position < positions; position++) {
    const row = position * headDim;
    for (let i = 0; i < half; i++) {
      const angle = position * frequencies[i]!;
      table[row + i] = magnitude * Math.cos(angle);
      table[row + half + i] = magnitude * Math.sin(angle);
    }
  }
  return table;
}
