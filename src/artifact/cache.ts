import { createHash } from 'node:crypto';
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { ggufShards, isGguf } from '../checkpoint/gguf/choose.ts';

/** Where lutra keeps what it can make again: `$LUTRA_CACHE`, or the platform's cache folder. */
export function cacheFolder(): string {
  const { LUTRA_CACHE, XDG_CACHE_HOME } = process.env;
  if (LUTRA_CACHE) return LUTRA_CACHE;
  if (process.platform === 'darwin') return join(homedir(), 'Library', 'Caches', 'lutra');
  return join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'lutra');
}

/** Files up to this size are hashed whole; of larger ones, samples. */
const WHOLE_FILE_BYTES = 64 << 20;
const SAMPLES = 64;
const SAMPLE_BYTES = 4096;
const HEAD_BYTES = 1 << 20;

/**
 * Identifies the content of a checkpoint, a folder or a GGUF file with its shards, without reading gigabytes: names and sizes of all files,
 * small files whole, and of large ones the head (safetensors headers are there), samples spread evenly
 * and the modification time.
 */
export async function fingerprintFolder(folder: string): Promise<string> {
  const hash = createHash('sha256');
  const paths = isGguf(folder)
    ? ggufShards(folder)
    : (await readdir(folder)).sort().map((name) => join(folder, name));
  for (const path of paths) {
    const facts = await stat(path);
    if (!facts.isFile()) continue;
    hash.update(`${basename(path)}\0${facts.size}\0`);
    if (facts.size <= WHOLE_FILE_BYTES) {
      hash.update(await readFile(path));
      continue;
    }
    hash.update(`${facts.mtimeMs}\0`);
    const file = await open(path);
    try {
      const read = async (at: number, bytes: number) =>
        hash.update((await file.read(Buffer.alloc(bytes), 0, bytes, at)).buffer);
      await read(0, HEAD_BYTES);
      for (let i = 1; i <= SAMPLES; i++) {
        await read(Math.floor(((facts.size - SAMPLE_BYTES) * i) / SAMPLES), SAMPLE_BYTES);
      }
    } finally {
      await file.close();
    }
  }
  return hash.digest('hex');
}
