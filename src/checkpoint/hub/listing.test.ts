import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseListing, unquoteEtag } from './listing.ts';

const SHA = 'a'.repeat(40);
const SHA256 = 'b'.repeat(64);

function parse(siblings: unknown, sha: unknown = SHA) {
  return parseListing(JSON.stringify({ sha, siblings }), 'https://hub/api');
}

describe('parseListing', () => {
  test('names small files by their blob, large ones by their content', () => {
    const { commit, files } = parse([
      { rfilename: 'config.json', size: 3, blobId: SHA },
      {
        rfilename: 'model.safetensors',
        size: 9,
        blobId: SHA,
        lfs: { sha256: SHA256, size: 9, pointerSize: 135 },
      },
      { rfilename: 'sub/x', size: 0, blobId: SHA },
    ]);
    expect(commit).toBe(SHA);
    expect([...files.values()]).toEqual([
      { path: 'config.json', size: 3, etag: SHA },
      { path: 'model.safetensors', size: 9, etag: SHA256 },
      { path: 'sub/x', size: 0, etag: SHA },
    ]);
  });

  test.each([
    { rfilename: 'x' },
    { rfilename: 'x', size: 3 },
    { rfilename: 'x', blobId: SHA },
    { rfilename: 'x', size: -1, blobId: SHA },
    { rfilename: 'x', size: 1.5, blobId: SHA },
    { rfilename: 'x', size: '3', blobId: SHA },
    { rfilename: 'x', size: 3, blobId: '../../../etc/passwd' },
    { rfilename: 'x', size: 3, blobId: SHA.toUpperCase() },
    { rfilename: 'x', size: 3, lfs: { sha256: '../x' } },
    { rfilename: 'x', size: 3, blobId: SHA, lfs: {} },
  ])('leaves undefined what is not said, or not believable: %j', (sibling) => {
    expect([...parse([sibling]).files]).toEqual([['x', undefined]]);
  });

  test.each([
    ['no JSON', '<html>', /not valid JSON/],
    ['no object', '[]', /not a JSON object/],
    ['no commit', '{"siblings":[]}', /no commit/],
    ['a commit that is none', '{"sha":"../x","siblings":[]}', /no commit/],
    ['no files', `{"sha":"${SHA}"}`, /no list "siblings"/],
    ['a file without a name', `{"sha":"${SHA}","siblings":[{}]}`, /has no name/],
    ['a file that is none', `{"sha":"${SHA}","siblings":[null]}`, /has no name/],
  ])('refuses %s', (_what, text, message) => {
    expect(() => parseListing(text, 'u')).toThrow(message);
  });

  test('gives only etags that can be file names, whatever comes', () => {
    const sibling = fc.record(
      {
        rfilename: fc.string(),
        size: fc.oneof(fc.integer(), fc.jsonValue()),
        blobId: fc.oneof(fc.constant(SHA), fc.string(), fc.jsonValue()),
        lfs: fc.oneof(fc.record({ sha256: fc.oneof(fc.constant(SHA256), fc.string()) }), fc.jsonValue()),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(
        fc.array(fc.oneof({ weight: 5, arbitrary: sibling }, { weight: 1, arbitrary: fc.jsonValue() })),
        (siblings) => {
          try {
            for (const file of parse(siblings).files.values()) {
              if (file === undefined) continue;
              expect(file.etag).toMatch(/^([0-9a-f]{40}|[0-9a-f]{64})$/);
              expect(file.size).toBeGreaterThanOrEqual(0);
            }
          } catch (error) {
            expect(error).toMatchObject({ name: 'LutraError', code: 'invalid' });
          }
        },
      ),
      { seed: 5, numRuns: 500 },
    );
  });
});

test.each([
  ['"abc"', 'abc'],
  ['W/"abc"', 'abc'],
  ['abc', 'abc'],
  ['', ''],
])('the etag %s names %s', (header, etag) => expect(unquoteEtag(header)).toBe(etag));
