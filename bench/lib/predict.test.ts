import { expect, test } from 'vitest';
import { compareRounds, predict } from './predict.mjs';

const call = (weightBytes: number, operations: number, cacheBytes = 0) => ({
  weightBytes,
  cacheBytes,
  activationBytes: 1e12,
  operations,
});
// 1 byte and 10 operations a nanosecond.
const limits = { bandwidth: 1, multiplyAdds: 10 };

test('each call is bound by memory or by arithmetic, and calls add up', () => {
  const { seconds, bytes, operations } = predict([call(4e9, 10e9), call(1e9, 50e9), call(0, 0, 2e9)], limits);
  expect(seconds).toBeCloseTo(4 + 5 + 2, 9);
  expect([bytes, operations]).toEqual([7e9, 60e9]);
});

test('measured rates are set against predictions and limits, round by round', () => {
  const calls = [call(4e9, 10e9), call(1e9, 0)];
  // Twice the speed on twice the machine is the same share.
  const fast = { bandwidth: 2, multiplyAdds: 20 };
  const result = compareRounds({ rates: [1, 2, 0.5], tokens: 10, calls, limits: [limits, fast, limits] });
  expect(result).toEqual({
    bytesPerToken: 5e8,
    operationsPerToken: 1e9,
    gigabytesPerSecond: 0.5,
    bandwidthShare: 0.5,
    arithmeticShare: 0.1,
    prediction: 2,
    predictionShare: 0.5,
    boundBy: 'memory',
  });
  expect(() => compareRounds({ rates: [1, 2], tokens: 1, calls, limits: [limits] })).toThrow(/round 1/);
});
