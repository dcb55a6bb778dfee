import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { makeFolders, removeFolders } from './folders.ts';

const scratch = mkdtempSync(join(tmpdir(), 'lutra-folders-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

it('makes what is missing and takes back just that', async () => {
  const path = join(scratch, 'a', 'b', 'c');
  const made = await makeFolders(path);
  expect(made).toEqual([path, join(scratch, 'a', 'b'), join(scratch, 'a')]);
  expect(await makeFolders(path)).toEqual([]);
  writeFileSync(join(scratch, 'a', 'kept'), '');
  await removeFolders(made);
  expect(existsSync(join(scratch, 'a', 'b'))).toBe(false);
  expect(existsSync(join(scratch, 'a', 'kept'))).toBe(true);
});

it('refuses files, and folders that take none', async () => {
  const file = join(scratch, 'file');
  writeFileSync(file, '');
  await expect(makeFolders(file)).rejects.toMatchObject({ code: 'ENOTDIR' });
  await expect(makeFolders(join(file, 'x'))).rejects.toMatchObject({ code: 'ENOTDIR' });
  if (process.platform === 'linux') await expect(makeFolders('/proc/lutra/x')).rejects.toThrow();
});
