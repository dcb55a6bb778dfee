/**
 * The cache folder that all tools of the hub share:
 *
 *     models--organization--name/
 *       blobs/<etag>                   the contents of files
 *       snapshots/<commit>/<file>      links to ../../blobs/<etag>
 *       refs/<branch or tag>           the commit it was last seen at
 *
 * Everything appears under its name by a rename, complete.
 */
import { randomBytes } from 'node:crypto';
import {
  copyFile,
  link,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileFailure, systemCode } from '../failure.ts';
import { ggufShards, isGguf } from '../gguf/choose.ts';
import { findWeights, parseWeightIndex } from '../weight-index.ts';
import { isCommit, type RemoteFile } from './listing.ts';
import type { HubSettings } from './settings.ts';
import type { RepoSpec } from './spec.ts';

/** The folder of a model. */
export function repoFolder(hub: HubSettings, spec: RepoSpec): string {
  return join(hub.cache, `models--${spec.repo.replaceAll('/', '--')}`);
}

export function blobPath(folder: string, etag: string): string {
  return join(folder, 'blobs', etag);
}

export function snapshotFolder(folder: string, commit: string): string {
  return join(folder, 'snapshots', commit);
}

/**
 * The model of a revision, a snapshot or a GGUF file in it, if all is there that is needed to run it; other
 * tools download single files.
 */
export async function cachedModel(folder: string, { revision, file }: RepoSpec): Promise<string | undefined> {
  const commit = isCommit(revision) ? revision : await readRef(folder, revision);
  if (commit === undefined) return undefined;
  const snapshot = snapshotFolder(folder, commit);
  if (file === undefined && (await isComplete(snapshot))) return snapshot;
  const gguf = file ?? (await onlyGguf(snapshot));
  if (gguf === undefined) return undefined;
  const sizes = await Promise.all(ggufShards(gguf).map((shard) => sizeOf(join(snapshot, shard))));
  return sizes.includes(undefined) ? undefined : join(snapshot, gguf);
}

/** The GGUF model that was downloaded before, if it was one. */
async function onlyGguf(snapshot: string): Promise<string | undefined> {
  const names = (await readdir(snapshot).catch(() => [])).filter(isGguf);
  const models = new Set(names.map((name) => ggufShards(name)[0]!));
  return models.size === 1 ? [...models][0] : undefined;
}

async function readRef(folder: string, revision: string): Promise<string | undefined> {
  const text = await readFile(join(folder, 'refs', revision), 'utf8').catch(() => '');
  return isCommit(text.trim()) ? text.trim() : undefined;
}

async function isComplete(snapshot: string): Promise<boolean> {
  const names: readonly string[] = await readdir(snapshot).catch(() => []);
  const weights = await weightFiles(snapshot, names);
  if (weights.length === 0) return false;
  const sizes = await Promise.all(
    ['config.json', 'tokenizer.json', ...weights].map((name) => sizeOf(join(snapshot, name))),
  );
  return !sizes.includes(undefined);
}

async function weightFiles(snapshot: string, names: readonly string[]): Promise<readonly string[]> {
  const found = findWeights(names);
  if (found?.kind !== 'index') return found === undefined ? [] : [found.name];
  const path = join(snapshot, found.name);
  const text = await readFile(path, 'utf8').catch(() => undefined);
  return text === undefined ? [] : [...new Set(parseWeightIndex(text, path).values())];
}

/** The size of a file, links followed; undefined when there is none. */
export async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw fileFailure(error, 'reading', path);
  }
}

/** Whether the file is in the snapshot, or its content in the cache. */
export async function isCached(folder: string, commit: string, file: RemoteFile): Promise<boolean> {
  const places = [join(snapshotFolder(folder, commit), file.path), blobPath(folder, file.etag)];
  const sizes = await Promise.all(places.map(sizeOf));
  return sizes.includes(file.size);
}

/** Makes the files, whose contents are in the cache, a snapshot, and `revision` a name of it. */
export async function publishSnapshot(
  folder: string,
  revision: string,
  commit: string,
  files: readonly RemoteFile[],
): Promise<string> {
  const snapshot = snapshotFolder(folder, commit);
  try {
    await mkdir(snapshot, { recursive: true });
    for (const file of files) {
      const pointer = join(snapshot, file.path);
      await mkdir(dirname(pointer), { recursive: true });
      if ((await sizeOf(pointer)) !== file.size) await point(pointer, blobPath(folder, file.etag));
    }
    if (!isCommit(revision)) await writeRef(join(folder, 'refs', revision), commit);
  } catch (error) {
    throw fileFailure(error, 'writing', snapshot);
  }
  return snapshot;
}

async function point(pointer: string, blob: string): Promise<void> {
  const temporary = temporaryFor(pointer);
  try {
    await symlink(relative(dirname(pointer), blob), temporary);
  } catch (error) {
    // Windows allows symbolic links to administrators and developers only.
    if (systemCode(error) !== 'EPERM' && systemCode(error) !== 'ENOSYS') throw error;
    await link(blob, temporary).catch(() => copyFile(blob, temporary));
  }
  await moveInto(temporary, pointer);
}

async function writeRef(path: string, commit: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = temporaryFor(path);
  await writeFile(temporary, commit);
  await moveInto(temporary, path);
}

async function moveInto(temporary: string, path: string): Promise<void> {
  try {
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

function temporaryFor(path: string): string {
  return `${path}.${randomBytes(6).toString('hex')}.tmp`;
}
