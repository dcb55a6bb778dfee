// @ts-check
/**
 * What the machine would allow, by what was measured on it in the same run: each kernel call takes at least the
 * time to read its weights and its part of the KV cache from memory, and at least the time its integer
 * multiplications and additions take in registers. Activations are counted apart: they stay in caches.
 */
import { spread } from './statistics.mjs';

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
 * Measured rates beside what was predicted for them, round by round: shares are medians of rounds.
 * @param {{ rates: readonly number[], tokens: number, calls: readonly Traffic[], limits: readonly Limits[] }} measured
 *   `rates`: tokens per second; `calls`: of these tokens; `limits`: of each round
 */
export function compareRounds({ rates, tokens, calls, limits }) {
  const rounds = rates.map((rate, i) => {
    const found = limits[i];
    if (found === undefined) throw new Error(`the limits of round ${i} were not measured`);
    const { seconds, bytes, operations, memorySeconds, arithmeticSeconds } = predict(calls, found);
    const took = tokens / rate;
    return {
      bytes,
      operations,
      gigabytesPerSecond: bytes / took / 1e9,
      bandwidthShare: memorySeconds / took,
      arithmeticShare: arithmeticSeconds / took,
      prediction: tokens / seconds,
      predictionShare: seconds / took,
    };
  });
  const { bytes = 0, operations = 0 } = rounds[0] ?? {};
  /** @typedef {Exclude<keyof typeof rounds[number], 'bytes' | 'operations'>} Rate */
  const median = (/** @type {Rate} */ name) => spread(rounds.map((round) => round[name])).median;
  const [bandwidthShare, arithmeticShare] = [median('bandwidthShare'), median('arithmeticShare')];
  return {
    bytesPerToken: Math.round(bytes / tokens),
    operationsPerToken: Math.round(operations / tokens),
    gigabytesPerSecond: median('gigabytesPerSecond'),
    bandwidthShare,
    arithmeticShare,
    prediction: median('prediction'),
    predictionShare: median('predictionShare'),
    boundBy: bandwidthShare >= arithmeticShare ? 'memory' : 'arithmetic',
  };
}
