/** Folders that are made, and taken back when what was to be in them failed. */
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdir, rmdir, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { systemCode } from './failure.ts';

/**
 * Makes a folder and those above it; gives the ones that it made, the innermost first. Unlike Node's `recursive`, it
 * ends where the system says of a folder that is there that nothing can be made in it because it does not exist (as
 * `/proc` does). Throws the system's error, `ENOTDIR` for a file of that name.
 */
export async function makeFolders(path: string): Promise<readonly string[]> {
  const folder = resolve(path);
  try {
    await mkdir(folder);
    return [folder];
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' && dirname(folder) !== folder) {
      const above = await makeFolders(dirname(folder));
      if (above.length === 0) throw error;
      try {
        await mkdir(folder);
      } catch (inner) {
        await removeFolders(above);
        throw inner;
      }
      return [folder, ...above];
    }
    if ((await stat(folder).catch(() => undefined))?.isDirectory()) return [];
    throw code === 'EEXIST' ? Object.assign(new Error(`${folder} is a file`), { code: 'ENOTDIR' }) : error;
  }
}

/** Takes back what `makeFolders` made, as far as nothing is in it. */
export async function removeFolders(made: readonly string[]): Promise<void> {
  try {
    for (const folder of made) await rmdir(folder);
  } catch {
    // Something is in it, and so in those above.
  }
}

/**
 * A place for the temporary files of a process that may be killed: what to put into its environment, and how to remove
 * what it left.
 */
export function temporaryPlace(name: string): { readonly env: NodeJS.ProcessEnv; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), `lutra-${name}-`));
  return {
    env: { ...process.env, TMPDIR: folder },
    remove: () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }),
  };
}
