/** One safetensors file, open for reading tensors by byte range. */
import { type FileHandle, open, stat } from 'node:fs/promises';
import { LutraError } from '../common/errors.ts';
import { fileFailure, malformed, quote, systemCode } from './failure.ts';
import {
  headerLength,
  PREFIX_BYTES,
  parseHeader,
  type SafetensorsEntry,
  STORED,
  storedDType,
} from './safetensors.ts';

/** Reads are split, since one system call moves at most 2 GiB. */
const READ_BYTES = 64 * 1024 * 1024;

/** A safetensors file, open for reading. */
export interface Shard {
  readonly path: string;
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
  /** The bytes of one of its entries; throws `unsupported` for a dtype that lutra does not read. */
  read(entry: SafetensorsEntry): Promise<Uint8Array>;
  close(): Promise<void>;
}

/**
 * Opens the file and checks its header.
 * @throws `not-found` when it is missing, `invalid` when its header is malformed or does not fit its size
 */
export async function openShard(path: string): Promise<Shard> {
  let handle: FileHandle | undefined;
  try {
    // Before opening, since opening a pipe would wait for its writer.
    if (!(await stat(path)).isFile()) throw malformed(path, 'it is not a regular file', 'a safetensors file');
    handle = await open(path, 'r');
    return await readShard(path, handle);
  } catch (error) {
    await handle?.close();
    if (systemCode(error) === 'ENOENT') {
      throw new LutraError('not-found', `${path} is missing`, {
        hint: 'Download the missing file, or correct the index that lists it.',
        cause: error,
      });
    }
    throw fileFailure(error, 'reading', path);
  }
}

async function readShard(path: string, handle: FileHandle): Promise<Shard> {
  const { size } = await handle.stat();
  const prefix = await readRange(handle, 0, Math.min(PREFIX_BYTES, size), path);
  const length = headerLength(prefix, size, path);
  const header = await readRange(handle, PREFIX_BYTES, length, path);
  const entries = new Map(parseHeader(header, size, path).map((entry) => [entry.name, entry]));
  return {
    path,
    entries,
    async read(entry) {
      requireReadable(entry, path);
      return readRange(handle, entry.begin, entry.end - entry.begin, path).catch((error: unknown) => {
        throw fileFailure(error, 'reading', path);
      });
    },
    close: () => handle.close(),
  };
}

function requireReadable(entry: SafetensorsEntry, path: string): void {
  if (storedDType(entry.dtype) !== undefined) return;
  const known = Object.values(STORED).map(({ tag }) => tag);
  throw new LutraError(
    'unsupported',
    `${path}: tensor ${quote(entry.name)} has the dtype ${quote(entry.dtype)}`,
    {
      hint: `lutra reads ${known.join(', ')}.`,
    },
  );
}

/** Exactly `length` bytes from `position` on; `invalid` when the file ends before. */
export async function readRange(
  handle: FileHandle,
  position: number,
  length: number,
  file: string,
): Promise<Uint8Array> {
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(length);
  } catch (error) {
    throw new LutraError('environment', `${file}: no memory for ${length} bytes`, { cause: error });
  }
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
