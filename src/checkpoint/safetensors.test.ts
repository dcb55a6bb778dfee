import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { headerLength, MAX_HEADER_BYTES, parseHeader, storedDType } from './safetensors.ts';

const encoder = new TextEncoder();

/** Parses a header whose data part has `dataBytes` bytes. */
function parse(header: string | Uint8Array, dataBytes: number) {
  const bytes = typeof header === 'string' ? encoder.encode(header) : header;
  return parseHeader(bytes, 8 + bytes.length + dataBytes, 'x.safetensors');
}

function entry(dtype: string, shape: unknown, offsets: unknown): string {
  return JSON.stringify({ dtype, shape, data_offsets: offsets });
}

describe('headerLength', () => {
  const prefix = (length: bigint) => new Uint8Array(new BigUint64Array([length]).buffer);

  test('reads a little endian u64', () => {
    expect(headerLength(prefix(2n), 10, 'f')).toBe(2);
    expect(headerLength(prefix(0x010203n), 0x20000, 'f')).toBe(0x010203);
  });

  test.each([
    ['longer than the file', 93n, 100, /claims 93 bytes; expected at most 92/],
    ['larger than 2^53', 0xffffffffffffffffn, 100, /claims 18446744073709551615 bytes/],
    ['over the cap', BigInt(MAX_HEADER_BYTES) + 1n, 1e12, /expected at most 33554432/],
  ])('refuses a header %s', (_what, length, fileBytes, message) => {
    expect(() => headerLength(prefix(length), fileBytes, 'f')).toThrow(message);
  });

  test('refuses a file that is shorter than the prefix', () => {
    for (let size = 0; size < 8; size++) {
      expect(() => headerLength(new Uint8Array(size), size, 'f')).toThrow(/at least 10/);
    }
  });
});

describe('parseHeader', () => {
  test('gives ranges within the file, in the order of the bytes', () => {
    const header = `{"__metadata__":{"format":"pt"},"b":${entry('F32', [2, 3], [6, 30])},"a":${entry('BF16', [3], [0, 6])}}   `;
    expect(parse(header, 30)).toEqual([
      { name: 'a', dtype: 'BF16', shape: [3], begin: 8 + header.length, end: 14 + header.length },
      { name: 'b', dtype: 'F32', shape: [2, 3], begin: 14 + header.length, end: 38 + header.length },
    ]);
  });

  test('accepts scalars, empty tensors, no tensors, names in any script', () => {
    expect(parse(`{"s":${entry('I8', [], [0, 1])}}`, 1)[0]?.shape).toEqual([]);
    expect(parse(`{"e":${entry('F32', [0, 7], [0, 0])},"f":${entry('U8', [2], [0, 2])}}`, 2)).toHaveLength(2);
    expect(parse('{}', 0)).toEqual([]);
    expect(
      parse(`{"__proto__":${entry('U8', [1], [0, 1])},"층":${entry('U8', [1], [1, 2])}}`, 2).map(
        (e) => e.name,
      ),
    ).toEqual(['__proto__', '층']);
  });

  test('accepts dtypes that lutra does not read, and those it does not know', () => {
    const header = `{"a":${entry('F64', [2], [0, 16])},"b":${entry('F4', [3, 2], [16, 19])},"c":${entry('X1', [9], [19, 20])}}`;
    expect(parse(header, 20)).toHaveLength(3);
    expect(storedDType('F64')).toBeUndefined();
    expect(storedDType('constructor')).toBeUndefined();
  });

  test.each([
    ['no JSON', '{"a":', 0, /not valid JSON/],
    ['an array', '[]', 0, /not a JSON object/],
    ['null', 'null', 0, /not a JSON object/],
    ['a byte order mark', '\ufeff{}', 0, /not valid JSON/],
    [
      'a tensor twice',
      `{"a":${entry('U8', [1], [0, 1])},"a":${entry('U8', [1], [0, 1])}}`,
      1,
      /key "a" twice/,
    ],
    [
      'a field twice',
      '{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
      1,
      /key "dtype" twice/,
    ],
    ['metadata that is no object', '{"__metadata__":[]}', 0, /"__metadata__" is malformed/],
    ['metadata that is not all strings', '{"__metadata__":{"a":1}}', 0, /"__metadata__" is malformed/],
    ['a tensor that is no object', '{"a":3}', 0, /tensor "a" is not an object/],
    ['no dtype', '{"a":{"shape":[1],"data_offsets":[0,1]}}', 1, /no dtype/],
    ['no shape', '{"a":{"dtype":"U8","data_offsets":[0,1]}}', 1, /malformed shape/],
    ['a negative size', `{"a":${entry('U8', [-1], [0, 1])}}`, 1, /malformed shape/],
    ['a fractional size', `{"a":${entry('U8', [1.5], [0, 1])}}`, 1, /malformed shape/],
    [
      'a size over 2^53',
      '{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}',
      1,
      /malformed shape/,
    ],
    ['a size that is text', `{"a":${entry('U8', ['1'], [0, 1])}}`, 1, /malformed shape/],
    ['negative offsets', `{"a":${entry('U8', [2], [-1, 1])}}`, 1, /malformed data_offsets/],
    ['three offsets', `{"a":${entry('U8', [1], [0, 1, 2])}}`, 1, /malformed data_offsets/],
    ['no offsets', '{"a":{"dtype":"U8","shape":[1]}}', 1, /malformed data_offsets/],
    ['reversed offsets', `{"a":${entry('U8', [1], [1, 0])}}`, 1, /ends at 0, before it begins at 1/],
    [
      'a size that does not fit',
      `{"a":${entry('F32', [2, 2], [0, 15])}}`,
      15,
      /15 bytes; expected 16 for "F32" of shape \[2, 2\]/,
    ],
    ['a wrong size in an unread dtype', `{"a":${entry('I64', [2], [0, 8])}}`, 8, /expected 16 for "I64"/],
    ['a product that overflows', `{"a":${entry('U8', [2 ** 32, 2 ** 32], [0, 0])}}`, 0, /2\^53 bits/],
    [
      'a product that overflows before a zero',
      `{"a":${entry('U8', [2 ** 50, 2 ** 50, 0], [0, 0])}}`,
      0,
      /2\^53 bits/,
    ],
    [
      'overlapping tensors',
      `{"a":${entry('U8', [4], [0, 4])},"b":${entry('U8', [4], [3, 7])}}`,
      7,
      /"b" overlaps.*data offset 4/,
    ],
    [
      'the same bytes twice',
      `{"a":${entry('U8', [4], [0, 4])},"b":${entry('U8', [4], [0, 4])}}`,
      4,
      /overlaps/,
    ],
    ['a gap', `{"a":${entry('U8', [4], [0, 4])},"b":${entry('U8', [1], [5, 6])}}`, 6, /"b" leaves a gap/],
    ['a gap at the start', `{"a":${entry('U8', [1], [2, 3])}}`, 3, /leaves a gap.*data offset 0/],
    ['data cut short', `{"a":${entry('U8', [4], [0, 4])}}`, 3, /cut short/],
    ['bytes after the end', `{"a":${entry('U8', [4], [0, 4])}}`, 5, /1 bytes follow the last tensor/],
  ])('refuses %s', (_what, header, dataBytes, message) => {
    const failing = () => parse(header, dataBytes);
    expect(failing).toThrow(LutraError);
    expect(failing).toThrow(message);
    expect(failing).toThrow(/^x\.safetensors/);
    expect(failing).toThrow(/; expected /);
  });

  test('refuses text that is not UTF-8', () => {
    const header = encoder.encode(`{"aa":${entry('U8', [1], [0, 1])}}`);
    header[2] = 0xc3;
    expect(() => parse(header, 1)).toThrow(/not valid UTF-8/);
  });

  test('escapes hostile names in messages and cuts long ones', () => {
    const name = `\u001b[2J${'x'.repeat(5000)}`;
    try {
      parse(`{${JSON.stringify(name)}:0}`, 0);
      expect.unreachable();
    } catch (error) {
      const { message } = error as LutraError;
      expect(message).toContain('\\u001b[2Jxxx');
      expect(message).not.toContain('\u001b');
      expect(message.length).toBeLessThan(300);
    }
  });

  test('never fails other than by an `invalid` LutraError, and never accepts ranges outside the file', () => {
    const tensor = fc.record({
      dtype: fc.constantFrom('U8', 'BF16', 'F32', 'F64', 'F4'),
      shape: fc.array(fc.nat(5), { maxLength: 3 }),
      data_offsets: fc.tuple(fc.nat(40), fc.nat(40)),
    });
    const anything = fc.oneof({ weight: 4, arbitrary: tensor }, { weight: 1, arbitrary: fc.jsonValue() });
    const mutation = fc.record({
      at: fc.nat(),
      byte: fc.nat(255),
      what: fc.constantFrom('set', 'drop', 'add'),
    });
    fc.assert(
      fc.property(
        fc.dictionary(fc.string({ maxLength: 4 }), anything, { maxKeys: 4 }),
        fc.array(mutation, { maxLength: 3 }),
        fc.nat(80),
        (root, mutations, dataBytes) => {
          const bytes = [...encoder.encode(JSON.stringify(root))];
          for (const { at, byte, what } of mutations) {
            const i = at % (bytes.length + 1);
            if (what === 'set') bytes[i] = byte;
            else if (what === 'drop') bytes.splice(i, 1);
            else bytes.splice(i, 0, byte);
          }
          try {
            let covered = 8 + bytes.length;
            for (const { begin, end } of parse(Uint8Array.from(bytes), dataBytes)) {
              expect(begin).toBe(covered);
              covered = end;
            }
            expect(covered).toBe(8 + bytes.length + dataBytes);
          } catch (error) {
            expect(error).toMatchObject({ name: 'LutraError', code: 'invalid' });
          }
        },
      ),
      { seed: 2, numRuns: 2000 },
    );
  });
});
