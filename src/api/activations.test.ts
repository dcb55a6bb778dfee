import { expect, test } from 'vitest';
import { needByteSums } from './activations.ts';

test('tables of bytes are built from floats or int8, and only they take floats', () => {
  for (const family of ['lut-int8', 'lut-fast'] as const) {
    for (const activations of ['f32', 'f16', 'int8'] as const) {
      expect(needByteSums({ family, activations })).toBe(true);
    }
    expect(needByteSums({ family })).toBe(true);
    expect(() => needByteSums({ family, activations: 'int16' })).toThrow(
      `the tables of ${family} have no room for activations of int16`,
    );
  }
  for (const family of ['auto', 'mad', 'lut', 'popcount'] as const) {
    expect(needByteSums({ family, activations: 'int8' })).toBe(false);
    expect(() => needByteSums({ family, activations: 'f32' })).toThrow(
      `the family ${family} takes activations of int16 or int8, not f32`,
    );
  }
  expect(needByteSums({})).toBe(false);
  expect(() => needByteSums({ activations: 'f16' })).toThrow('the family auto takes');
});
