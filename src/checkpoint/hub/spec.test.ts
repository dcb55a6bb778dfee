import { isAbsolute, join, normalize } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { looksLikeRepo, parseRepoSpec } from './spec.ts';

test.each([
  ['hf:microsoft/bitnet-b1.58-2B-4T', 'microsoft/bitnet-b1.58-2B-4T', 'main'],
  ['1bitLLM/bitnet_b1_58-3B', '1bitLLM/bitnet_b1_58-3B', 'main'],
  ['hf:gpt2', 'gpt2', 'main'],
  ['hf:a/b@v1.0', 'a/b', 'v1.0'],
  ['a/b@refs/pr/12', 'a/b', 'refs/pr/12'],
  ['a/b@0123456789abcdef0123456789abcdef01234567', 'a/b', '0123456789abcdef0123456789abcdef01234567'],
])('%s', (text, repo, revision) => {
  expect(parseRepoSpec(text)).toEqual({ repo, revision });
});

test('without a prefix, only organization/name looks like a model', () => {
  expect(looksLikeRepo('a/b')).toBe(true);
  for (const text of [
    'model',
    './a/b',
    'a\\b',
    'C:/x',
    '~/x',
    'a/b/',
    'a/.b',
    'a/b.',
    'a/b--c',
    'hf:a/b',
    '',
  ]) {
    expect(looksLikeRepo(text)).toBe(false);
  }
});

test('whatever is accepted stays within a folder and a URL', () => {
  const piece = fc.constantFrom(
    'a',
    'B1',
    '.',
    '..',
    '-',
    '--',
    '_',
    '/',
    '@',
    '%2e',
    '?',
    '#',
    '\\',
    ':',
    ' ',
    '\0',
    '\n',
    'é',
  );
  fc.assert(
    fc.property(
      fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.join('')),
      (text) => {
        let spec: ReturnType<typeof parseRepoSpec>;
        try {
          spec = parseRepoSpec(text);
        } catch (error) {
          expect(error).toMatchObject({ name: 'LutraError', code: 'usage' });
          return;
        }
        for (const part of [spec.repo, spec.revision]) {
          expect(isAbsolute(part)).toBe(false);
          expect(normalize(join('root', part))).toBe(join('root', ...part.split('/')));
          expect(new URL(`https://hub/${part}`).pathname).toBe(`/${part}`);
        }
      },
    ),
    { seed: 4, numRuns: 3000 },
  );
});
