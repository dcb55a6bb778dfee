import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LutraError } from '../../common/errors.ts';
import { parseGgufHeader } from './header.ts';
import { type Fixture, ggufFile, u32, u64, value } from './testing.ts';

const parse = (file: Uint8Array) => parseGgufHeader(file, file.length, 'x.gguf');

function failure(fixture: Fixture | Uint8Array): string {
  const file = fixture instanceof Uint8Array ? fixture : ggufFile(fixture);
  try {
    parse(file);
  } catch (error) {
    if (!(error instanceof LutraError)) throw error;
    expect(error.hint).toBeTypeOf('string');
    return `${error.code}: ${error.message}`;
  }
  return 'none';
}

const floats = (name: string, offset?: number) => ({
  name,
  type: 0,
  sizes: [4, 2],
  data: new Uint8Array(32).fill(1),
  ...(offset === undefined ? {} : { offset }),
});

test('reads metadata of every type, and tensors with their places', () => {
  const file = ggufFile({
    entries: [
      ['a', value.u8(200)],
      ['b', value.i32(-5)],
      ['c', value.f32(1.5)],
      ['d', value.bool(true)],
      ['e', value.text('größe')],
      ['f', value.u64(2n ** 60n)],
      ['g', value.i64(-7)],
      ['h', value.texts(['', 'x', '▁'])],
      ['i', value.i32s([1, -2])],
      ['j', value.f32s([0.5])],
    ],
    tensors: [floats('one'), { name: 'two', type: 8, sizes: [64, 3], data: new Uint8Array(204) }],
  });
  const header = parse(file)!;
  expect([...header.metadata.values()]).toEqual([
    200,
    -5,
    1.5,
    true,
    'größe',
    2n ** 60n,
    -7,
    ['', 'x', '▁'],
    [1, -2],
    [0.5],
  ]);
  const start = file.length - 32 - 224;
  expect(header.tensors).toEqual([
    { name: 'one', type: 'F32', typeName: 'F32', shape: [2, 4], begin: start, end: start + 32 },
    { name: 'two', type: 'Q8_0', typeName: 'Q8_0', shape: [3, 64], begin: start + 32, end: start + 236 },
  ]);
});

test('asks for more where the bytes at hand end before the header does', () => {
  const file = ggufFile({ entries: [['a', value.texts(['x', 'y'])]], tensors: [floats('t')] });
  const whole = parse(file)!;
  const headerEnd = whole.tensors[0]!.begin - 31;
  for (let length = 0; length < file.length; length++) {
    const header = parseGgufHeader(file.subarray(0, length), file.length, 'x.gguf');
    if (length < headerEnd - 32) expect(header).toBeUndefined();
    else if (header !== undefined) expect(header).toEqual(whole);
  }
});

describe('is refused', () => {
  test.each<[string, Fixture, RegExp]>([
    ['another format', { magic: 'GGML' }, /^invalid: x\.gguf: it does not begin with "GGUF"/],
    ['version 1', { version: 1 }, /^unsupported: .*version 1/],
    ['big endian', { version: 3 << 24 }, /^unsupported: .*big-endian/],
    ['a huge number of tensors', { tensorCount: 2n ** 40n }, /^invalid: .*1099511627776 tensors/],
    ['a number beyond 2^53', { tensorCount: 2n ** 63n }, /^invalid: .*9223372036854775808.*2\^53/],
    ['a huge number of entries', { entryCount: 1_000_000 }, /^invalid: .*1000000 metadata entries/],
    [
      'a key twice',
      {
        entries: [
          ['k', value.u8(1)],
          ['k', value.u8(2)],
        ],
      },
      /^invalid: .*key "k" twice/,
    ],
    ['an unknown type of value', { entries: [['k', [...u32(13), 0, 0, 0, 0]]] }, /^invalid: .*type 13/],
    [
      'an array of arrays',
      { entries: [['k', [...u32(9), ...u32(9), ...u64(1), ...u32(4), ...u64(0)]]] },
      /^unsupported: .*array of arrays/,
    ],
    [
      'an array longer than the file',
      { entries: [['k', [...u32(9), ...u32(10), ...u64(1000)]]], tensors: [floats('t')] },
      /^invalid: .*1000 values of metadata "k"/,
    ],
    [
      'a string longer than the file',
      { entries: [['k', [...u32(8), ...u64(99_999)]]] },
      /^invalid: .*inside the header/,
    ],
    ['a string that is not UTF-8', { entries: [['k', [...u32(8), ...u64(1), 255]]] }, /^invalid: .*UTF-8/],
    ['an odd alignment', { entries: [['general.alignment', value.u32(33)]] }, /^invalid: .*alignment is 33/],
    ['a tensor twice', { tensors: [floats('t'), floats('t')] }, /^invalid: .*tensor "t" twice/],
    ['five axes', { tensors: [{ ...floats('t'), sizes: [1, 1, 1, 1, 8] }] }, /^invalid: .*5 axes/],
    ['an empty axis', { tensors: [{ ...floats('t'), sizes: [0, 2] }] }, /^invalid: .*axis of 0/],
    [
      'a product beyond counting',
      { tensors: [{ ...floats('t'), sizes: [2 ** 31, 2 ** 31] }] },
      /^invalid: .*2\^46/,
    ],
    [
      'rows of half a block',
      { tensors: [{ ...floats('t'), type: 8, sizes: [16, 2] }] },
      /^invalid: .*rows of 16 values/,
    ],
    [
      'a tensor beyond the end',
      { tensors: [{ ...floats('t'), sizes: [4, 3000] }] },
      /^invalid: .*ends at byte/,
    ],
    ['a misaligned tensor', { tensors: [floats('t', 8)] }, /^invalid: .*offset 8.*multiple of 32/],
    [
      'overlapping tensors',
      { tensors: [floats('a'), { ...floats('b', 32), sizes: [4, 4] }, floats('c', 64)] },
      /"b" overlaps "c"/,
    ],
  ])('%s', (_, fixture, message) => {
    expect(failure(fixture)).toMatch(message);
  });

  test('a file cut short anywhere', () => {
    const file = ggufFile({
      entries: [
        ['a', value.texts(['x', 'yy'])],
        ['b', value.u32(1)],
      ],
      tensors: [floats('one'), floats('two')],
    });
    for (let length = 0; length < file.length; length++) {
      expect(failure(file.subarray(0, length))).toMatch(/^invalid: /);
    }
  });
});

test('one number that means several types is told by the room up to the next tensor', () => {
  const typeOf = (type: number, sizes: readonly number[], bytes: number) =>
    parse(ggufFile({ tensors: [{ name: 't', type, sizes, data: new Uint8Array(bytes) }, floats('next')] }))!
      .tensors[0]!;
  expect(typeOf(42, [256, 64], 256 * 64 * (18 / 64))).toMatchObject({ type: 'Q2_0' });
  expect(typeOf(42, [256, 64], 256 * 64 * (34 / 128))).toMatchObject({ type: 'Q2_0_128' });
  // TL2 of [640, 2560]: 5 bits for 3 weights of 2304 columns, 2 bits a weight of 256; 32 bytes for the scale.
  const tl2 = (640 * 2304 * 5) / 24 + (640 * 256) / 4 + 32;
  expect(typeOf(39, [2560, 640], tl2)).toMatchObject({ type: 'TL2' });
  expect(typeOf(42, [2560, 640], tl2)).toMatchObject({ type: 'TL2' });
  expect(typeOf(39, [2560, 640], (2560 * 640 * 17) / 32)).toMatchObject({
    type: undefined,
    typeName: 'MXFP4 (39)',
  });
  expect(typeOf(99, [4], 16)).toMatchObject({ type: undefined, typeName: 'number 99' });
  expect(typeOf(13, [256], 176)).toMatchObject({ type: undefined, typeName: 'Q5_K (13)' });
});

test('mutated headers are read or refused, and nothing else', () => {
  const file = ggufFile({
    entries: [
      ['general.architecture', value.text('llama')],
      ['tokenizer.ggml.tokens', value.texts(['a', 'b', 'c'])],
      ['general.alignment', value.u32(32)],
    ],
    tensors: [floats('one'), { name: 'two', type: 34, sizes: [256, 2], data: new Uint8Array(108) }],
  });
  const change = fc.record({ at: fc.nat(file.length - 1), byte: fc.nat(255) });
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 8 }), fc.nat(file.length), (changes, length) => {
      const mutated = file.slice();
      for (const { at, byte } of changes) mutated[at] = byte;
      for (const bytes of [mutated, mutated.subarray(0, length)]) {
        const result = failure(bytes);
        expect(result).toMatch(/^(none$|invalid: |unsupported: )/);
      }
    }),
    { numRuns: 2000, seed: 11 },
  );
});

test('any strings and numbers come back', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.string({ unit: 'grapheme', maxLength: 12 }), { minLength: 1, maxLength: 8 }),
      fc.array(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })),
      (keys, numbers) => {
        const entries = keys.map(
          (key, i) => [key, i % 2 === 0 ? value.i32s(numbers) : value.texts(keys)] as const,
        );
        const { metadata } = parse(ggufFile({ entries }))!;
        expect([...metadata]).toEqual(keys.map((key, i) => [key, i % 2 === 0 ? numbers : keys]));
      },
    ),
    { numRuns: 100, seed: 12 },
  );
});
