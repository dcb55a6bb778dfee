/** One safetensors file, open for reading tensors by byte range. */
import { LutraError } from '../common/errors.ts';
import { quote } from './failure.ts';
import {
  headerLength,
  PREFIX_BYTES,
  parseHeader,
  type SafetensorsEntry,
  STORED,
  storedDType,
} from './safetensors.ts';
import type { ByteSource } from './source.ts';

/** A safetensors file, open for reading. */
export interface Shard {
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
  /** The bytes of one of its entries; throws `unsupported` for a dtype that lutra does not read. */
  read(entry: SafetensorsEntry): Promise<Uint8Array>;
  close(): Promise<void>;
}

/**
 * Reads and checks the header of a file; closes the file when that fails.
 * @throws `invalid` when its header is malformed or does not fit its size
 */
export async function openShard(source: ByteSource): Promise<Shard> {
  const { path, size } = source;
  try {
    const prefix = await source.read(0, Math.min(PREFIX_BYTES, size));
    const header = await source.read(PREFIX_BYTES, headerLength(prefix, size, path));
    const entries = new Map(parseHeader(header, size, path).map((entry) => [entry.name, entry]));
    return {
      entries,
      async read(entry) {
        requireReadable(entry, path);
        return source.read(entry.begin, entry.end - entry.begin);
      },
      close: () => source.close(),
    };
  } catch (error) {
    await source.close();
    throw error;
  }
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
