import { createHash } from 'node:crypto';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { cacheFolder } from '../artifact/cache.ts';
import { MANIFEST_FILE, type Manifest } from '../artifact/manifest.ts';
import { VERSION } from '../common/version.ts';
import type { CpuInfo } from '../targets/cpu.ts';

/**
 * Remembers, per machine and artifact, that hashes and self-test were right, so that a model is read whole
 * only once. The key holds everything that could change the verdict: processor, engine and its options, lutra, the
 * target, and size, time and identity of every file. `what` is `files` for the hashes, or the candidate (`c:avx2`)
 * whose self-test was right.
 */
async function verificationKey(
  path: string,
  manifest: Manifest,
  what: string,
  { model, features }: CpuInfo,
): Promise<string> {
  const hash = createHash('sha256');
  const { version, platform, arch, execArgv, env } = process;
  // Native code and files are the same whatever the engine is told.
  const engine = what.startsWith('wasm') ? [execArgv, env.NODE_OPTIONS ?? ''] : [];
  hash.update(JSON.stringify([VERSION, what, model, ...features, version, platform, arch, engine]));
  for (const name of [MANIFEST_FILE, ...Object.keys(manifest.files)]) {
    const { size, mtimeMs, ctimeMs, ino } = await stat(join(path, name));
    hash.update(JSON.stringify([name, size, mtimeMs, ctimeMs, ino]));
  }
  return hash.digest('hex');
}

const stampPath = (key: string) => join(cacheFolder(), 'verified', key);

export async function isVerified(
  path: string,
  manifest: Manifest,
  what: string,
  cpu: CpuInfo,
): Promise<boolean> {
  return stat(stampPath(await verificationKey(path, manifest, what, cpu))).then(
    () => true,
    () => false,
  );
}

/** Where the cache cannot be written, the artifact is simply verified again next time. */
export async function rememberVerified(
  path: string,
  manifest: Manifest,
  what: string,
  cpu: CpuInfo,
): Promise<void> {
  const stamp = stampPath(await verificationKey(path, manifest, what, cpu));
  await mkdir(dirname(stamp), { recursive: true })
    .then(() => writeFile(stamp, ''))
    .catch(() => undefined);
}
