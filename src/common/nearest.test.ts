import { expect, test } from 'vitest';
import { nearest } from './nearest.ts';

test.each([
  ['rmsnorm', 'rmsNorm'],
  ['lowbit.matmull', 'lowbit.matmul'],
  ['esp', 'eps'],
  ['attention.paked', 'attention.packed'],
  ['conv2d', undefined],
  ['', undefined],
])('%s is most like %s', (word, expected) => {
  const known = [
    'rmsNorm',
    'rmsNorm.quantize',
    'lowbit.matmul',
    'attention',
    'attention.packed',
    'eps',
    'add',
  ];
  expect(nearest(word, known)).toBe(expected);
});
