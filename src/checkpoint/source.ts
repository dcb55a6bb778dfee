/** Bytes of files by ranges, wherever the files are. */
import { type FileHandle, open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LutraError } from '../common/errors.ts';
import { fileFailure, malformed, systemCode } from './failure.ts';

/** One file, open for reading. */
export interface ByteSource {
  /** For messages. */
  readonly path: string;
  readonly size: number;
  /** Exactly `length` bytes from `position` on; throws `invalid` when the file ends before. */
  read(position: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** The files of a model: a folder, or a repository of the hub. */
export interface ModelFiles {
  /** For messages. */
  readonly path: string;
  names(): Promise<readonly string[]>;
  /** A text file's content, without a byte order mark; undefined when there is no such file. */
  text(name: string): Promise<string | undefined>;
  /** Throws `not-found` when there is no such file. */
  open(name: string): Promise<ByteSource>;
}

/** The largest tokenizers in use have about 35 MB. */
const MAX_TEXT_BYTES = 256 * 1024 * 1024;
/** Reads are split, since one system call moves at most 2 GiB. */
const READ_BYTES = 64 * 1024 * 1024;

export function folderFiles(folder: string): ModelFiles {
  return {
    path: folder,
    names: () =>
      readdir(folder).catch((error: unknown) => {
        throw fileFailure(error, 'reading', folder);
      }),
    text: (name) => readText(join(folder, name)),
    open: (name) => openFile(join(folder, name)),
  };
}

/**
 * Opens a file.
 * @throws `not-found` when it is missing, `invalid` when it is no regular file
 */
export async function openFile(path: string): Promise<ByteSource> {
  let handle: FileHandle | undefined;
  try {
    // Before opening, since opening a pipe would wait for its writer.
    if (!(await stat(path)).isFile())
      throw malformed(path, 'it is not a regular file', 'a file with weights');
    const opened = await open(path, 'r');
    handle = opened;
    const { size } = await opened.stat();
    return {
      path,
      size,
      read: (position, length) =>
        readRange(opened, position, length, path).catch((error: unknown) => {
          throw fileFailure(error, 'reading', path);
        }),
      close: () => opened.close(),
    };
  } catch (error) {
    await handle?.close();
    if (systemCode(error) === 'ENOENT') {
      throw new LutraError('not-found', `${path} is missing`, {
        hint: 'Get all files of the model: an index, or names with -00001-of-0000N, say which belong together.',
        cause: error,
      });
    }
    throw fileFailure(error, 'reading', path);
  }
}

/** Memory for so many bytes of a file; throws `environment` when there is none. */
export function allocate(length: number, file: string): Uint8Array {
  try {
    return new Uint8Array(length);
  } catch (error) {
    throw new LutraError('environment', `${file}: no memory for ${length} bytes`, { cause: error });
  }
}

async function readRange(
  handle: FileHandle,
  position: number,
  length: number,
  file: string,
): Promise<Uint8Array> {
  const bytes = allocate(length, file);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(
      bytes,
      done,
      Math.min(READ_BYTES, length - done),
      position + done,
    );
    if (bytesRead === 0) {
      throw malformed(file, `it ends at byte ${position + done}`, `at least ${position + length} bytes`);
    }
    done += bytesRead;
  }
  return bytes;
}

async function readText(path: string): Promise<string | undefined> {
  let bytes: Uint8Array;
  try {
    const info = await stat(path);
    if (!info.isFile()) throw malformed(path, 'it is not a regular file', 'a text file');
    if (info.size > MAX_TEXT_BYTES) {
      throw malformed(path, `it has ${info.size} bytes`, `at most ${MAX_TEXT_BYTES}`);
    }
    bytes = await readFile(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw fileFailure(error, 'reading', path);
  }
  return decodeText(bytes, path);
}

/** Text without a byte order mark; throws `invalid` when it is no UTF-8. */
export function decodeText(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw malformed(path, 'it is not valid UTF-8', 'text in UTF-8');
  }
}
