/**
 * The safetensors header, checked as strictly as the format's reference implementation does, and duplicate
 * keys besides. A file is
 *
 *     u64 n, little endian | n bytes of JSON, UTF-8 | tensor data, without holes
 *
 * where the JSON maps each tensor's name to {dtype, shape, data_offsets: [begin, end)}, relative to the
 * start of the data, and `__metadata__`, if present, to an object of strings.
 */
import type { StoredDType } from './checkpoint.ts';
import { malformed, quote } from './failure.ts';
import { isObject, parseObjectStrictly } from './json.ts';

/** One tensor as its file describes it; `begin` and `end` count from the start of the file. */
export interface SafetensorsEntry {
  readonly name: string;
  /** The file's own word, such as `BF16`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** The dtypes lutra reads: their name in the file and the bytes of one element. */
export const STORED: Readonly<Record<StoredDType, { readonly tag: string; readonly bytes: number }>> = {
  bf16: { tag: 'BF16', bytes: 2 },
  f16: { tag: 'F16', bytes: 2 },
  f32: { tag: 'F32', bytes: 4 },
  u8: { tag: 'U8', bytes: 1 },
  i8: { tag: 'I8', bytes: 1 },
  i32: { tag: 'I32', bytes: 4 },
};

const DTYPE_BY_TAG: ReadonlyMap<string, StoredDType> = new Map(
  (Object.keys(STORED) as StoredDType[]).map((dtype) => [STORED[dtype].tag, dtype]),
);

/** Bits of one element for every dtype the format defines, so that sizes of the unread ones are checked too. */
const BITS: ReadonlyMap<string, number> = new Map([
  ['F4', 4],
  ...['F6_E2M3', 'F6_E3M2'].map((tag) => [tag, 6] as const),
  ...['BOOL', 'U8', 'I8', 'F8_E5M2', 'F8_E4M3', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ'].map(
    (tag) => [tag, 8] as const,
  ),
  ...['I16', 'U16', 'F16', 'BF16'].map((tag) => [tag, 16] as const),
  ...['I32', 'U32', 'F32'].map((tag) => [tag, 32] as const),
  ...['I64', 'U64', 'F64', 'C64'].map((tag) => [tag, 64] as const),
]);

/** Bytes before the JSON. */
export const PREFIX_BYTES = 8;

/**
 * Larger headers are refused. The format allows 100 MB; 32 MiB hold some 300,000 tensors, and keep what a
 * hostile header can make the JSON parser allocate within bounds.
 */
export const MAX_HEADER_BYTES = 32 * 1024 * 1024;

/** The dtype lutra knows a file's dtype by, or undefined when it reads no such tensors. */
export function storedDType(tag: string): StoredDType | undefined {
  return DTYPE_BY_TAG.get(tag);
}

/**
 * The length of the JSON header.
 * @param prefix the first 8 bytes of the file, fewer if it is shorter
 * @param fileBytes the size of the file
 * @param file its name, for messages
 * @throws `invalid` when the file is too short for the header it announces, or the header too large
 */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.length < PREFIX_BYTES) {
    throw malformed(file, `the file has ${fileBytes} bytes`, 'a safetensors file of at least 10');
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, PREFIX_BYTES).getBigUint64(0, true);
  if (length > BigInt(fileBytes - PREFIX_BYTES)) {
    const expected = `at most ${fileBytes - PREFIX_BYTES}, since the file has ${fileBytes}`;
    throw malformed(file, `its header claims ${length} bytes`, expected);
  }
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw malformed(file, `its header claims ${length} bytes`, `at most ${MAX_HEADER_BYTES}`);
  }
  return Number(length);
}

/**
 * Reads and checks a header.
 * @param header its JSON, `headerLength` bytes
 * @param fileBytes the size of the file
 * @param file its name, for messages
 * @returns the tensors in the order of their bytes, which together cover all of the file after the header
 * @throws `invalid` for anything that is not a well-formed header of a file of this size
 */
export function parseHeader(header: Uint8Array, fileBytes: number, file: string): SafetensorsEntry[] {
  const root = parseObjectStrictly(decode(header, file), `${file} (header)`);
  const dataStart = PREFIX_BYTES + header.length;
  const entries: SafetensorsEntry[] = [];
  for (const [name, value] of Object.entries(root)) {
    if (name === '__metadata__') checkMetadata(value, file);
    else entries.push(parseEntry(name, value, dataStart, file));
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkCoverage(entries, dataStart, fileBytes, file);
  return entries;
}

function decode(header: Uint8Array, file: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header);
  } catch {
    throw malformed(file, 'its header is not valid UTF-8', 'JSON in UTF-8');
  }
}

function checkMetadata(value: unknown, file: string): void {
  if (!isObject(value) || !Object.values(value).every((entry) => typeof entry === 'string')) {
    throw malformed(file, 'the header entry "__metadata__" is malformed', 'an object of strings');
  }
}

function parseEntry(name: string, value: unknown, dataStart: number, file: string): SafetensorsEntry {
  const where = `tensor ${quote(name)}`;
  if (!isObject(value)) throw malformed(file, `${where} is not an object`, '{dtype, shape, data_offsets}');
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string') throw malformed(file, `${where} has no dtype`, 'a string such as "BF16"');
  if (!isSizes(shape)) throw malformed(file, `${where} has a malformed shape`, 'an array of integers >= 0');
  if (!isSizes(offsets) || offsets.length !== 2) {
    throw malformed(file, `${where} has malformed data_offsets`, '[begin, end], integers >= 0');
  }
  const [begin, end] = offsets as [number, number];
  if (end < begin)
    throw malformed(file, `${where} ends at ${end}, before it begins at ${begin}`, 'begin <= end');
  const bits = BITS.get(dtype);
  if (bits !== undefined) checkSize(where, dtype, bits, shape, end - begin, file);
  return { name, dtype, shape, begin: dataStart + begin, end: dataStart + end };
}

/** Products are checked step by step, so that none passes 2^53 unnoticed. */
function checkSize(
  where: string,
  dtype: string,
  bits: number,
  shape: readonly number[],
  bytes: number,
  file: string,
) {
  const dims = `[${shape.slice(0, 8).join(', ')}${shape.length > 8 ? ', ...' : ''}]`;
  let total = bits;
  for (const size of shape) {
    total *= size;
    if (!Number.isSafeInteger(total)) {
      throw malformed(file, `${where} has the shape ${dims}`, 'a size that fits in 2^53 bits');
    }
  }
  if (total !== bytes * 8) {
    throw malformed(
      file,
      `${where} occupies ${bytes} bytes`,
      `${total / 8} for ${quote(dtype)} of shape ${dims}`,
    );
  }
}

/** Tensors must follow each other without gaps or overlaps, from the end of the header to the end of the file. */
function checkCoverage(
  entries: readonly SafetensorsEntry[],
  dataStart: number,
  fileBytes: number,
  file: string,
) {
  let at = dataStart;
  for (const { name, begin, end } of entries) {
    if (begin !== at) {
      const what = begin < at ? 'overlaps the tensor before it' : 'leaves a gap before it';
      throw malformed(file, `tensor ${quote(name)} ${what}`, `it to begin at data offset ${at - dataStart}`);
    }
    at = end;
  }
  if (at > fileBytes) {
    throw malformed(file, `the file is cut short: it has ${fileBytes} bytes`, `${at} by its header`);
  }
  if (at < fileBytes) {
    throw malformed(file, `${fileBytes - at} bytes follow the last tensor`, `a file of ${at} bytes`);
  }
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
