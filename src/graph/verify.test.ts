import { expect, test } from 'vitest';
import { parseGraph } from './parse.ts';
import { verifyGraph } from './verify.ts';

const GOOD = `graph g {
  input tokens: i32[tokens]
  const table: bf16[10, 4] = tensor("t")
  const w: ternary[8, 4] = concat(packed-ternary("a"), absmean-ternary("b"))
  const ws: f32[8] = concat(scale("a.s", multiply, rows = 4), absmean-scale("b", rows = 4))
  x: f32[tokens, 4] = embedding(tokens, table)
  q: i8[tokens, 4], s: f32[tokens], sum: i32[tokens] = quantize(x)
  y: f32[tokens, 8] = lowbit.matmul(q, s, sum, w, ws)
  return y
}`;

test('a graph that means something passes', () => {
  expect(() => verifyGraph(parseGraph(GOOD))).not.toThrow();
});

test.each<[string, string, string]>([
  ['input tokens: i32[tokens]', '', 'node x (embedding): reads tokens, which nothing defines'],
  ['embedding(tokens, table)', 'embedding(y, table)', 'reads y before it is computed'],
  ['return y', 'return z', 'graph g: the output z is not defined'],
  ['return y', 'return', 'graph g: has no outputs'],
  ['y: f32', 'x: f32', 'node x (lowbit.matmul): x is already defined'],
  ['const table', 'const tokens', 'constant tokens: tokens is already defined'],
  ['y: f32[tokens, 8]', 'y: f32[tokens, 4]', 'y is f32[tokens, 4], but the operator gives f32[tokens, 8]'],
  ['x: f32[tokens, 4] =', 'x: f32[tokens, 4], z: f32[tokens, 4] =', 'has 2 outputs, but the operator 1'],
  ['embedding(', 'embeding(', 'node x (embeding): no operator is called embeding'],
  ['y: f32', '"": f32', 'a value has an empty name'],
  ['input tokens: i32[tokens]', 'input tokens: i32[tokens] input n: f32[0]', 'no positive integer: f32[0]'],
  ['table: bf16[10, 4]', 'table: bf16[outputs, 4]', 'constant table: needs sizes known at compile time'],
  ['table: bf16[10, 4]', 'table: f32[]', 'constant table: needs sizes known at compile time, not f32[]'],
  [
    'table: bf16[10, 4]',
    'table: i8[10, 4]',
    'a source of kind tensor gives floats, but the constant is i8[10, 4]',
  ],
  ['w: ternary[8, 4]', 'w: i8[8, 4]', 'a source of kind packed-ternary gives ternary[rows, columns]'],
  ['ws: f32[8]', 'ws: f16[8]', 'a source of kind scale gives f32[rows]'],
  ['rows = 4)', 'rows = 5)', 'a source of kind concat gives 9 rows, but the constant is f32[8]'],
  ['rows = 4)', 'rows = 0.5)', 'a source of kind scale has 0.5 rows'],
  ['concat(packed-ternary("a"), absmean-ternary("b"))', 'concat()', 'a source of kind concat has no parts'],
  ['concat(packed-ternary("a"), absmean-ternary("b"))', 'data(1, 0)', 'data gives 0.5 rows'],
  ['concat(packed-ternary("a"), absmean-ternary("b"))', 'data(1, 2)', 'data holds the value 2'],
  ['tensor("t")', 'rope-table(theta = 2, headDim = 4, positions = 10)', 'gives f32[positions, headDim]'],
])('%s -> %s', (from, to, message) => {
  expect(GOOD).toContain(from);
  expect(() => verifyGraph(parseGraph(GOOD.replace(from, to)))).toThrow(message);
});

test('rows that only the checkpoint knows are left to the packing of weights', () => {
  const partly = GOOD.replace('scale("a.s", multiply, rows = 4)', 'tensor("s")');
  expect(() => verifyGraph(parseGraph(partly))).not.toThrow();
});

test('rope tables and int8 data have the size and range of their type', () => {
  const text = (constant: string) => parseGraph(`graph g { const c: ${constant} return c }`);
  const table = (positions: number, headDim: number) =>
    `rope-table(theta = 10000, headDim = ${headDim}, positions = ${positions})`;
  expect(() => verifyGraph(text(`f32[10, 4] = ${table(10, 4)}`))).not.toThrow();
  expect(() => verifyGraph(text(`f32[11, 4] = ${table(10, 4)}`))).toThrow('gives 10 rows');
  expect(() => verifyGraph(text(`f32[10, 5] = ${table(10, 5)}`))).toThrow('an even headDim, here 5');
  expect(() => verifyGraph(text('i8[2] = data(-128, 127)'))).not.toThrow();
  expect(() => verifyGraph(text('i8[2] = data(-128, 128)'))).toThrow('holds the value 128');
  expect(() => verifyGraph(text('i32[1] = data(0.5)'))).toThrow('holds the value 0.5');
});
