/**
 * Files under way. Each belongs to one thread of one process, which its name says, so that no two ever write
 * to the same file, without locks that a crash would leave behind:
 *
 *     blobs/<etag>.<host>-<process>-<thread>-<random>.incomplete
 *
 * What a cancelled or crashed download left is taken over by renaming it, which only one can do. The files
 * that other tools have under way have other names and are left alone.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readdir, rename, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { threadId } from 'node:worker_threads';
import { fileFailure, systemCode } from '../failure.ts';

const HOST = createHash('sha256').update(hostname()).digest('hex').slice(0, 8);
const NAME = /^([0-9a-f]+)\.([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{12}\.incomplete$/;
/** A download that is alive writes more often than this. */
const ABANDONED_MS = 15 * 60 * 1000;

/** The files that this thread is writing. */
const busy = new Set<string>();

/**
 * A name for the content `etag`, ours alone until `releasePartial`. If an abandoned download of it is there,
 * the one that got furthest is under that name; otherwise nothing is.
 */
export async function claimPartial(blobs: string, etag: string): Promise<string> {
  const random = randomBytes(6).toString('hex');
  const own = join(blobs, `${etag}.${HOST}-${process.pid}-${threadId}-${random}.incomplete`);
  busy.add(own);
  for (const { path } of await abandoned(blobs, etag)) {
    try {
      await rename(path, own);
      return own;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') continue; // another process was faster
      busy.delete(own);
      throw fileFailure(error, 'continuing', path);
    }
  }
  return own;
}

export function releasePartial(path: string): void {
  busy.delete(path);
}

/** How much of a content an abandoned download has. */
export async function resumableBytes(blobs: string, etag: string): Promise<number> {
  return (await abandoned(blobs, etag))[0]?.size ?? 0;
}

/** Deletes what other downloads of a content left, once it is complete. */
export async function removeAbandoned(blobs: string, etag: string): Promise<void> {
  for (const { path } of await abandoned(blobs, etag)) await rm(path, { force: true });
}

/** The abandoned files of a content, largest first. */
async function abandoned(blobs: string, etag: string): Promise<{ path: string; size: number }[]> {
  const found: { path: string; size: number }[] = [];
  for (const name of await readdir(blobs)) {
    const [, ofEtag, host, pid, thread] = NAME.exec(name) ?? [];
    if (ofEtag !== etag) continue;
    const path = join(blobs, name);
    const info = await stat(path).catch(() => undefined);
    if (info === undefined) continue;
    const owned = host === HOST && isAlive(path, Number(pid), Number(thread));
    const recent = Date.now() - info.mtimeMs < ABANDONED_MS;
    if ((owned || host !== HOST) && recent) continue;
    found.push({ path, size: info.size });
  }
  return found.sort((a, b) => b.size - a.size);
}

function isAlive(path: string, pid: number, thread: number): boolean {
  if (pid === process.pid) return thread !== threadId || busy.has(path);
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCode(error) === 'EPERM';
  }
}
