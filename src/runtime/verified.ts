import { createHash } from 'node:crypto';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cacheFolder } from '../artifact/cache.ts';
import { MANIFEST_FILE, type Manifest } from '../artifact/manifest.ts';
import { VERSION } from '../common/version.ts';

/**
 * Remembers, per machine and artifact, that hashes and self-test were right, so that a model is read whole
 * only once. The key holds everything that could change the verdict: processor, engine, lutra, the target,
 * and size, time and identity of every file.
 */
export async function verificationKey(
  path: string,
  manifest: Manifest,
  machine: string,
  cpu: string,
): Promise<string> {
  const hash = createHash('sha256');
  hash.update(JSON.stringify([VERSION, machine, cpu, process.version, process.platform, process.arch]));
  for (const name of [MANIFEST_FILE, ...Object.keys(manifest.files)]) {
    const { size, mtimeMs, ctimeMs, ino } = await stat(join(path, name));
    hash.update(JSON.stringify([name, size, mtimeMs, ctimeMs, ino]));
  }
  return hash.digest('hex');
}

const stampPath = (key: string) => join(cacheFolder(), 'verified', key);

export async function isVerified(key: string): Promise<boolean> {
  return stat(stampPath(key)).then(
    () => true,
    () => false,
  );
}

/** Where the cache cannot be written, the artifact is simply verified again next time. */
export async function rememberVerified(key: string): Promise<void> {
  const path = stampPath(key);
  await mkdir(join(path, '..'), { recursive: true })
    .then(() => writeFile(path, ''))
    .catch(() => undefined);
}
