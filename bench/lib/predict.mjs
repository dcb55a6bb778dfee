// @ts-check
/**
 * What the machine would allow, by what was measured on it in the same run: each kernel call takes at least the
 * time to read its weights and its part of the KV cache from memory, and at least the time its integer
 * multiplications and additions take in registers. Activations are counted apart: they stay in caches.
 */

/**
 * @typedef {{ weightBytes: number, cacheBytes: number, activationBytes: number, operations: number }} Traffic
 *   of one kernel call; `operations`: integer multiplications and additions
 * @typedef {{ bandwidth: number, multiplyAdds: number }} Limits GB/s and GOP/s
 * @typedef {{ seconds: number, bytes: number, operations: number, memorySeconds: number, arithmeticSeconds: number }} Prediction
 */

/**
 * The least time for some calls.
 * @param {readonly Traffic[]} calls
 * @param {Limits} limits
 * @returns {Prediction}
 */
export function predict(calls, { bandwidth, multiplyAdds }) {
  let [seconds, bytes, operations] = [0, 0, 0];
  for (const call of calls) {
    const moved = call.weightBytes + call.cacheBytes;
    seconds += Math.max(moved / bandwidth, call.operations / multiplyAdds) / 1e9;
    bytes += moved;
    operations += call.operations;
  }
  return {
    seconds,
    bytes,
    operations,
    memorySeconds: bytes / bandwidth / 1e9,
    arithmeticSeconds: operations / multiplyAdds / 1e9,
  };
}

/**
 * A measured rate beside what was predicted for it.
 * @param {{ rate: number, tokens: number, calls: readonly Traffic[], limits: Limits }} measured
 *   `rate`: tokens per second; `calls`: of these tokens
 */
export function compare({ rate, tokens, calls, limits }) {
  const { seconds, bytes, operations, memorySeconds, arithmeticSeconds } = predict(calls, limits);
  const took = tokens / rate;
  return {
    bytesPerToken: Math.round(bytes / tokens),
    operationsPerToken: Math.round(operations / tokens),
    gigabytesPerSecond: bytes / took / 1e9,
    bandwidthShare: memorySeconds / took,
    arithmeticShare: arithmeticSeconds / took,
    prediction: tokens / seconds,
    predictionShare: seconds / took,
    boundBy: memorySeconds >= arithmeticSeconds ? 'memory' : 'arithmetic',
  };
}
