import { expect, test } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { parseArch } from './standalone.ts';

test.each([
  ['x64', 'x64'],
  ['x86_64-linux-gnu', 'x64'],
  ['AMD64', 'x64'],
  ['arm64', 'arm64'],
  ['aarch64', 'arm64'],
  ['aarch64-unknown-linux-musl', 'arm64'],
  ['any', 'any'],
])('the architecture %s is %s', (name, arch) => {
  expect(parseArch(name)).toBe(arch);
});

test('other architectures are refused, with what there is', () => {
  for (const name of ['', 'arm', 'armv7-linux-gnueabihf', 'riscv64', 'neon', 'x64x', 'constructor']) {
    expect(() => parseArch(name)).toThrow(LutraError);
    expect(() => parseArch(name)).toThrow(/unknown architecture/);
  }
});
