/** Writes GGUF files of any size without holding more than one chunk of one tensor. */
import { open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { LutraError } from '../../common/errors.ts';
import { alignUp } from '../../common/math.ts';
import { fileFailure } from '../failure.ts';
import { writeAll } from '../write.ts';
import { ALIGNMENT, encodeGgufHeader, type GgufEntries } from './metadata.ts';
import { GGUF_TYPES, type GgufType } from './types.ts';

/** A tensor to write; `chunks` gives its `bytes` bytes in order. A chunk is done with when the next is asked for. */
export interface GgufTensorSource {
  readonly name: string;
  readonly type: GgufType;
  /** Row-major, outermost first. */
  readonly shape: readonly number[];
  readonly bytes: number;
  chunks(): Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
}

export interface GgufWriteOptions {
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Writes a GGUF file, under a temporary name until it is complete: after a failure or cancellation nothing
 * is left, and a file that was there before stays.
 * @returns its size in bytes
 * @throws `environment` when the disk is full, `cancelled` when the signal says so
 */
export async function writeGguf(
  path: string,
  entries: GgufEntries,
  tensors: readonly GgufTensorSource[],
  options: GgufWriteOptions = {},
): Promise<number> {
  let total = 0;
  const places = tensors.map(({ name, type, shape, bytes }) => {
    const offset = total;
    total = alignUp(offset + bytes, ALIGNMENT);
    return { name, typeId: GGUF_TYPES[type].id, shape, offset };
  });
  const header = encodeGgufHeader(entries, places);
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.partial`);
  try {
    const handle = await open(temporary, 'w');
    try {
      await writeAll(handle, header);
      let done = 0;
      for (const tensor of tensors) {
        let written = 0;
        for await (const chunk of tensor.chunks()) {
          if (options.signal?.aborted) {
            throw new LutraError('cancelled', `writing ${basename(path)} was cancelled`, {
              cause: options.signal.reason,
            });
          }
          await writeAll(handle, chunk);
          written += chunk.length;
          options.onProgress?.(done + written, total);
        }
        if (written !== tensor.bytes) {
          throw new LutraError(
            'internal',
            `tensor ${tensor.name} gave ${written} bytes; expected ${tensor.bytes}`,
          );
        }
        await writeAll(handle, new Uint8Array(alignUp(written, ALIGNMENT) - written));
        done += alignUp(written, ALIGNMENT);
      }
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw fileFailure(error, 'writing', path);
  }
  return header.length + total;
}
