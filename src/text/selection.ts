/** Some tokens with a value each. */
export interface Weighted {
  /** Undefined: token i is the i-th value. */
  readonly ids: Int32Array | undefined;
  readonly values: Float64Array;
}

/**
 * The k largest values with their indices, ranked by value, equal ones by index. One pass with a heap of
 * the best so far, whose root is the worst of them: O(n + k log k log n) on values in random order.
 */
export function largest(values: Float32Array, k: number): { ids: Int32Array; values: Float64Array } {
  const size = Math.min(k, values.length);
  const heap = new Int32Array(size);
  const worse = (a: number, b: number): boolean => {
    const difference = values[a]! - values[b]!;
    return difference < 0 || (!(difference > 0) && a > b);
  };
  const siftDown = (from: number): void => {
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) return;
      if (child + 1 < size && worse(heap[child + 1]!, heap[child]!)) child++;
      if (!worse(heap[child]!, heap[at]!)) return;
      [heap[at], heap[child]] = [heap[child]!, heap[at]!];
      at = child;
    }
  };
  for (let i = 0; i < size; i++) heap[i] = i;
  for (let i = (size >> 1) - 1; i >= 0; i--) siftDown(i);
  for (let i = size; i < values.length; i++) {
    // A later index never beats an equal value.
    if (!(values[i]! > values[heap[0]!]!)) continue;
    heap[0] = i;
    siftDown(0);
  }
  const ids = heap.sort((a, b) => (worse(a, b) ? 1 : -1));
  return { ids, values: Float64Array.from(ids, (id) => values[id]!) };
}
