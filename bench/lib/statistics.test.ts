import { expect, test } from 'vitest';
import { significant, spread } from './statistics.mjs';

test('spread of odd and even counts, whatever their order', () => {
  expect(spread([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3, repetitions: 3, values: [3, 1, 2] });
  expect(spread([4, 1, 2, 3]).median).toBe(2.5);
  expect(spread([7.123456]).values).toEqual([7.123]);
  expect(() => spread([])).toThrow(/no values/);
});

test('significant digits', () => {
  expect([123456, 0.00123456, 0].map((value) => significant(value))).toEqual([123500, 0.001235, 0]);
});
