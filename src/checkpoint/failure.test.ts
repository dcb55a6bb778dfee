import { expect, test } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { fileFailure, quote } from './failure.ts';

test.each([
  ['ENOENT', 'not-found', /x\/y cannot be written: its folder does not exist/],
  ['EACCES', 'environment', /no permission for writing x\/y/],
  ['ENOSPC', 'environment', /the disk is full: writing x\/y failed/],
  ['EDQUOT', 'environment', /the disk is full/],
  ['EMFILE', 'environment', /too many open files/],
  ['EIO', 'environment', /writing x\/y failed: oh/],
])('%s becomes %s', (system, code, message) => {
  const cause = Object.assign(new Error('oh'), { code: system });
  const failure = fileFailure(cause, 'writing', 'x/y');
  expect(failure).toMatchObject({ name: 'LutraError', code, cause, message: expect.stringMatching(message) });
});

test('a file that is read is not there itself', () => {
  const cause = Object.assign(new Error('oh'), { code: 'ENOENT' });
  expect(fileFailure(cause, 'reading', 'x/y').message).toBe('x/y does not exist (while reading it)');
});

test('an error of ours passes', () => {
  const own = new LutraError('cancelled', 'enough');
  expect(fileFailure(own, 'writing', 'x')).toBe(own);
  expect(fileFailure('text', 'writing', 'x').message).toBe('writing x failed: text');
});

test('quoted names cannot control a terminal', () => {
  expect(quote('a"b')).toBe('"a\\"b"');
  expect(quote('\u001b[31m\u009b\u202e\n')).toBe('"\\u001b[31m\\u009b\\u202e\\n"');
  expect(quote('größe 층')).toBe('"größe 층"');
  expect(quote('x'.repeat(200))).toHaveLength(82);
});
