/** Writes safetensors files of any size without holding more than one chunk of one tensor. */
import { type FileHandle, open, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import type { StoredDType } from './checkpoint.ts';
import { fileFailure } from './failure.ts';
import { PREFIX_BYTES, STORED } from './safetensors.ts';
import { WEIGHTS, WEIGHTS_INDEX } from './weight-index.ts';

/**
 * A tensor to write; `chunks` gives its little endian bytes, in order, in pieces of any size. A piece is done
 * with when the next one is asked for.
 */
export interface TensorSource {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  chunks(): Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
}

export interface WriteOptions {
  /** A file takes no further tensor that would bring it over this many bytes of data; default: one file. */
  readonly maxShardBytes?: number;
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/** How many bytes a tensor occupies. */
export function tensorBytes(tensor: {
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
}): number {
  return tensor.shape.reduce((product, size) => product * size, STORED[tensor.dtype].bytes);
}

/**
 * Writes `model.safetensors` into `folder`, or shards and their index when `maxShardBytes` asks for more
 * than one file. Files are written under temporary names and renamed when all of them are complete; after a
 * failure or cancellation nothing is left.
 * @throws `environment` when the disk is full, `cancelled` when the signal says so
 */
export async function writeSafetensors(
  folder: string,
  tensors: readonly TensorSource[],
  options: WriteOptions = {},
): Promise<void> {
  const shards = divide(tensors, options.maxShardBytes ?? Number.POSITIVE_INFINITY);
  const names = shards.map((_, index) => shardName(index, shards.length));
  const files = shards.length > 1 ? [...names, WEIGHTS_INDEX] : names;
  const temporary = (name: string) => join(folder, `.${name}.${process.pid}.partial`);
  const total = tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  let done = 0;
  const onBytes = (bytes: number) => {
    done += bytes;
    options.onProgress?.(done, total);
  };
  try {
    for (const [index, shard] of shards.entries()) {
      await writeShard(temporary(names[index]!), shard, onBytes, options.signal);
    }
    if (shards.length > 1) await writeFile(temporary(WEIGHTS_INDEX), encodeIndex(shards, names, total));
    for (const name of files) await rename(temporary(name), join(folder, name));
  } catch (error) {
    await Promise.all(files.map((name) => rm(temporary(name), { force: true })));
    throw fileFailure(error, 'writing', folder);
  }
}

function shardName(index: number, count: number): string {
  if (count === 1) return WEIGHTS;
  const digits = (value: number) => String(value).padStart(5, '0');
  return `model-${digits(index + 1)}-of-${digits(count)}.safetensors`;
}

/** Fills one shard after the other; a tensor larger than the limit gets a shard of its own. */
function divide(tensors: readonly TensorSource[], maxBytes: number): TensorSource[][] {
  const shards: TensorSource[][] = [[]];
  let filled = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor);
    if (filled > 0 && filled + bytes > maxBytes) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)!.push(tensor);
    filled += bytes;
  }
  // Wide elements first, so that every tensor is aligned to its element.
  for (const shard of shards) shard.sort((a, b) => STORED[b.dtype].bytes - STORED[a.dtype].bytes);
  return shards;
}

async function writeShard(
  path: string,
  tensors: readonly TensorSource[],
  onBytes: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const handle = await open(path, 'w');
  try {
    await writeAll(handle, encodeHeader(tensors));
    for (const tensor of tensors) {
      let written = 0;
      for await (const chunk of tensor.chunks()) {
        if (signal?.aborted) {
          throw new LutraError('cancelled', `writing ${basename(path)} was cancelled`, {
            cause: signal.reason,
          });
        }
        await writeAll(handle, chunk);
        written += chunk.length;
        onBytes(chunk.length);
      }
      const expected = tensorBytes(tensor);
      if (written !== expected) {
        throw new LutraError('internal', `tensor ${tensor.name} gave ${written} bytes; expected ${expected}`);
      }
    }
  } finally {
    await handle.close();
  }
}

/** The length and the JSON, padded by spaces so that the data begins at a multiple of 8. */
function encodeHeader(tensors: readonly TensorSource[]): Uint8Array {
  const entries: [string, unknown][] = [['__metadata__', { format: 'pt' }]];
  let offset = 0;
  for (const tensor of tensors) {
    const end = offset + tensorBytes(tensor);
    const { tag } = STORED[tensor.dtype];
    entries.push([tensor.name, { dtype: tag, shape: tensor.shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const length = alignUp(json.length, 8);
  const header = new Uint8Array(PREFIX_BYTES + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, PREFIX_BYTES);
  return header;
}

/** Writes all of `bytes`, in as many system calls as it takes. */
export async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  let done = 0;
  while (done < bytes.length) done += (await handle.write(bytes, done)).bytesWritten;
}

function encodeIndex(
  shards: readonly (readonly TensorSource[])[],
  names: readonly string[],
  totalBytes: number,
): string {
  const placed = shards.flatMap((shard, index) => shard.map(({ name }) => [name, names[index]!] as const));
  const index = { metadata: { total_size: totalBytes }, weight_map: Object.fromEntries(placed) };
  return `${JSON.stringify(index, null, 2)}\n`;
}
