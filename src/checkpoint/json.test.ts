import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { duplicateKey, parseObject, parseObjectStrictly } from './json.ts';

describe('duplicateKey', () => {
  test.each([
    ['{"a":1,"a":2}', 'a'],
    ['{"a":1,"\\u0061":2}', 'a'],
    ['{"x":{"b":1,"c":[],"b":{}}}', 'b'],
    ['{"x":[{"k":0},{"k":1,"k":1}]}', 'k'],
    ['{"a":[1,2],"b":"a","a":3}', 'a'],
    ['{"\\"":1,"\\"":2}', '"'],
    ['{"":1,"":2}', ''],
    [' { "__proto__" : 1 , "__proto__" : 2 } ', '__proto__'],
  ])('finds it in %s', (json, key) => expect(duplicateKey(json)).toBe(key));

  test.each([
    '{"a":"a","b":["a","a"]}',
    '{"a":{"a":{"a":1}},"b":{"a":1}}',
    '[{"a":1},{"a":1}]',
    '{"a":",\\"a\\":","b":"\\\\","c":"}"}',
    '{"a\\\\":1,"a":2}',
    '"a"',
    '{}',
  ])('finds none in %s', (json) => expect(duplicateKey(json)).toBeUndefined());

  test('finds none in what JSON.stringify writes, and any key that is written twice', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue(), { minKeys: 1 }), fc.nat(), (object, pick) => {
        const json = JSON.stringify(object);
        expect(duplicateKey(json)).toBeUndefined();
        const keys = Object.keys(object);
        const key = keys[pick % keys.length]!;
        expect(duplicateKey(`${json.slice(0, -1)},${JSON.stringify(key)}:0}`)).toBe(key);
      }),
      { seed: 1 },
    );
  });
});

test('parseObject names the file and what was wrong', () => {
  expect(parseObject('{"a":1}', 'f')).toEqual({ a: 1 });
  for (const text of ['', '{', '[]', 'null', '1', '"x"']) {
    expect(() => parseObject(text, 'some/config.json')).toThrow(/^some\/config\.json: it is not .*expected/);
  }
  expect(() => parseObjectStrictly('{"a":1,"a":1}', 'f')).toThrow(/key "a" twice/);
});
