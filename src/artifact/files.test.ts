import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PendingFolder } from './files.ts';
import { MANIFEST_FILE } from './manifest.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lutra-files-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('PendingFolder', () => {
  it('appears whole, or not at all', async () => {
    const target = join(folder, 'whole');
    const kept = await PendingFolder.create(target);
    await kept.add('deep/a.txt', 'a');
    expect(await readdir(folder)).not.toContain('whole');
    await kept.publish();
    expect(await readFile(join(target, 'deep/a.txt'), 'utf8')).toBe('a');
    expect(kept.files['deep/a.txt']).toEqual({
      bytes: 1,
      sha256: 'ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb',
    });
    const dropped = await PendingFolder.create(join(folder, 'dropped'));
    await dropped.add('b', 'b');
    await dropped.discard();
    expect(await readdir(folder)).toEqual(['whole']);
  });

  it('replaces an artifact or an empty folder', async () => {
    for (const [name, files] of [
      ['empty', []],
      ['artifact', [MANIFEST_FILE, 'old']],
    ] as const) {
      const target = join(folder, name);
      await mkdir(target);
      for (const file of files) await writeFile(join(target, file), '');
      const pending = await PendingFolder.create(target);
      await pending.add('new', '');
      await pending.publish();
      expect(await readdir(target)).toEqual(['new']);
    }
  });

  it('refuses to replace anything else', async () => {
    const home = join(folder, 'home');
    await mkdir(home);
    await writeFile(join(home, 'thesis.txt'), 'years of work');
    await expect(PendingFolder.create(home)).rejects.toMatchObject({ code: 'usage' });
    await expect(PendingFolder.create(join(home, 'thesis.txt'))).rejects.toMatchObject({ code: 'usage' });
    expect(await readdir(home)).toEqual(['thesis.txt']);
  });
});
