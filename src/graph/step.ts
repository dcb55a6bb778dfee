import { LutraError } from '../common/errors.ts';
import type { DType } from './ir.ts';
import { isCode } from './types.ts';

/**
 * Values as references see them: floats in Float64Array (weights also Float32Array), i8 and ternary in
 * Int8Array, codes of any bits in Uint8Array.
 */
export type Numbers = Float64Array | Float32Array | Int32Array | Int16Array | Int8Array | Uint8Array;

/** A value whose sizes are all known: row-major, innermost axis last. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly data: Numbers;
}

/** Whether an array is what a value of that dtype is held in. */
export function holds(data: Numbers, dtype: DType): boolean {
  if (dtype === 'i32') return data instanceof Int32Array;
  if (dtype === 'i16') return data instanceof Int16Array;
  if (isCode(dtype)) return data instanceof Uint8Array;
  if (dtype === 'i8' || dtype === 'ternary') return data instanceof Int8Array;
  return data instanceof Float64Array || data instanceof Float32Array;
}

/** Keys and values of the positions that one attention layer has seen: [positions, width], float64. */
export interface LayerCache {
  readonly keys: Float64Array;
  readonly values: Float64Array;
}

interface StoredLayer {
  readonly width: number;
  length: number;
  keys: Float64Array;
  values: Float64Array;
}

function grown(array: Float64Array, length: number): Float64Array {
  if (array.length >= length) return array;
  const larger = new Float64Array(Math.max(length, 2 * array.length));
  larger.set(array);
  return larger;
}

/** The attention state of one sequence, in float64. */
export class ReferenceCache {
  readonly #layers = new Map<number, StoredLayer>();

  /**
   * Writes the keys and values of the tokens from `position` on (each [tokens, width]) and returns all of
   * the layer up to and including them. What was stored from `position` on is forgotten, so going back is
   * allowed; throws `usage` when positions before it were never filled.
   */
  append(
    layer: number,
    position: number,
    width: number,
    keys: ArrayLike<number>,
    values: ArrayLike<number>,
  ): LayerCache {
    let stored = this.#layers.get(layer);
    if (stored === undefined) {
      stored = { width, length: 0, keys: new Float64Array(0), values: new Float64Array(0) };
      this.#layers.set(layer, stored);
    }
    if (stored.width !== width) {
      throw new LutraError(
        'usage',
        `attention layer ${layer} has ${stored.width} values a position in this cache, not ${width}`,
        { hint: 'Give every attention node a layer number of its own, and every model a cache of its own.' },
      );
    }
    if (position > stored.length) {
      throw new LutraError(
        'usage',
        `attention layer ${layer} starts at position ${position}, but only ${stored.length} positions are in the cache`,
        { hint: 'Feed the tokens of a sequence in order, with one cache.' },
      );
    }
    const end = position * width + keys.length;
    stored.keys = grown(stored.keys, end);
    stored.values = grown(stored.values, end);
    stored.keys.set(keys, position * width);
    stored.values.set(values, position * width);
    stored.length = end / width;
    return { keys: stored.keys.subarray(0, end), values: stored.values.subarray(0, end) };
  }
}

/** What a reference knows of the forward step it is part of. */
export interface Step {
  /** Sizes of the two symbolic dimensions. */
  readonly tokens: number;
  readonly outputs: number;
  /** Absolute position of the first token. */
  readonly position: number;
  readonly cache: ReferenceCache;
}
