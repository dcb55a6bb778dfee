import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileFailure, systemCode } from '../checkpoint/failure.ts';
import { makeFolders, removeFolders } from '../checkpoint/folders.ts';
import { LutraError } from '../common/errors.ts';
import { MANIFEST_FILE, STANDALONE_FILE } from './manifest.ts';

export interface FileFacts {
  readonly bytes: number;
  readonly sha256: string;
}

/** Translates what the operating system says while writing into something a user can act on. */
function writeFailure(cause: unknown, path: string): LutraError {
  const elsewhere = 'choose another place with -o or LUTRA_CACHE';
  const code = systemCode(cause);
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    // What Node says of a folder to be made on a file system that is read-only, too.
    return new LutraError('environment', `no folder can be made for ${path}`, {
      cause,
      hint: `Check its permissions, or ${elsewhere}.`,
    });
  }
  return fileFailure(cause, 'writing', path, elsewhere);
}

/** SHA-256 of a file, read in chunks. */
export async function hashFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    signal?.throwIfAborted();
    hash.update(chunk as Buffer);
  }
  return hash.digest('hex');
}

/** Appends to one file and hashes what it writes. */
export class HashedWriter {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #hash = createHash('sha256');
  #bytes = 0;

  private constructor(file: FileHandle, path: string) {
    this.#file = file;
    this.#path = path;
  }

  static async create(path: string): Promise<HashedWriter> {
    try {
      return new HashedWriter(await open(path, 'wx'), path);
    } catch (cause) {
      throw writeFailure(cause, path);
    }
  }

  get bytes(): number {
    return this.#bytes;
  }

  async write(chunk: Uint8Array): Promise<void> {
    this.#hash.update(chunk);
    this.#bytes += chunk.length;
    let written = 0;
    try {
      while (written < chunk.length) {
        written += (await this.#file.write(chunk, written, Math.min(chunk.length - written, 1 << 26)))
          .bytesWritten;
      }
    } catch (cause) {
      throw writeFailure(cause, this.#path);
    }
  }

  async padTo(offset: number): Promise<void> {
    if (offset > this.#bytes) await this.write(new Uint8Array(offset - this.#bytes));
  }

  async finish(): Promise<FileFacts> {
    await this.#file.close();
    return { bytes: this.#bytes, sha256: this.#hash.digest('hex') };
  }

  async abandon(): Promise<void> {
    await this.#file.close().catch(() => undefined);
  }
}

/**
 * A folder that appears whole or not at all: it is filled under a temporary name beside its final one and
 * renamed at the end; on failure nothing stays.
 */
export class PendingFolder {
  readonly path: string;
  readonly #target: string;
  /** The folders that had to be made for it. */
  readonly #made: readonly string[];
  readonly files: Record<string, FileFacts> = {};

  private constructor(path: string, target: string, made: readonly string[]) {
    this.path = path;
    this.#target = target;
    this.#made = made;
  }

  /** Throws `usage` when `target` is anything but free, an empty folder, or an artifact to replace. */
  static async create(target: string): Promise<PendingFolder> {
    await refuseToReplace(target);
    const path = `${target}.partial-${process.pid}-${Math.random().toString(36).slice(2, 8)}`;
    try {
      return new PendingFolder(path, target, await makeFolders(path));
    } catch (cause) {
      throw writeFailure(cause, target);
    }
  }

  /** Writes a small file and remembers its hash. */
  async add(name: string, content: string | Uint8Array): Promise<void> {
    const path = join(this.path, name);
    const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content;
    try {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, bytes);
    } catch (cause) {
      throw writeFailure(cause, path);
    }
    this.files[name] = { bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
  }

  /** Remembers the hash of a file that something else wrote into the folder. */
  async adopt(name: string): Promise<void> {
    const path = join(this.path, name);
    this.files[name] = { bytes: (await stat(path)).size, sha256: await hashFile(path) };
  }

  /** Gives the folder its final name, replacing what stood there. */
  async publish(): Promise<void> {
    const old = `${this.path}.old`;
    try {
      await rename(this.#target, old).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error;
      });
      await rename(this.path, this.#target);
      await rm(old, { recursive: true, force: true });
    } catch (cause) {
      throw writeFailure(cause, this.#target);
    }
  }

  async discard(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
    const [, ...above] = this.#made;
    await removeFolders(above);
  }
}

/** Publishing removes what stood there: never somebody's files because of a wrong -o. */
async function refuseToReplace(target: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(target);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') return;
    if (code !== 'ENOTDIR') throw writeFailure(cause, target);
    throw new LutraError('usage', `${target} is a file`, { hint: 'Choose a folder.' });
  }
  if (names.length > 0 && !names.includes(MANIFEST_FILE) && !names.includes(STANDALONE_FILE)) {
    throw new LutraError('usage', `${target} is not empty and no compiled model`, {
      hint: 'Choose another folder, or empty it.',
    });
  }
}
