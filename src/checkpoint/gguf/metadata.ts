/** Metadata of a GGUF file as it is written: a value and the type it has in the file. */
import { GrowingBytes } from '../../common/growing-bytes.ts';

/** The types of metadata, by the numbers they have in files. */
export const METADATA_TYPES = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
} as const;

export type GgufEntry =
  | { readonly type: 'u32' | 'i32' | 'f32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'i32s' | 'f32s'; readonly value: readonly number[] };

/** Keys and values, in the order of the file. */
export type GgufEntries = readonly (readonly [string, GgufEntry])[];

/** Little endian bytes in a buffer that grows. */
class ByteWriter {
  readonly #out = new GrowingBytes(1 << 16);

  u32(value: number): void {
    const at = this.#out.grow(4);
    this.#out.view.setUint32(at, value, true);
  }

  i32(value: number): void {
    const at = this.#out.grow(4);
    this.#out.view.setInt32(at, value, true);
  }

  f32(value: number): void {
    const at = this.#out.grow(4);
    this.#out.view.setFloat32(at, value, true);
  }

  u64(value: number): void {
    const at = this.#out.grow(8);
    this.#out.view.setBigUint64(at, BigInt(value), true);
  }

  bool(value: boolean): void {
    const at = this.#out.grow(1);
    this.#out.view.setUint8(at, value ? 1 : 0);
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u64(bytes.length);
    this.#out.append(bytes);
  }

  /** All bytes, with zeros up to a multiple of `alignment`. */
  finish(alignment: number): Uint8Array {
    this.#out.grow((alignment - (this.#out.length % alignment)) % alignment);
    return this.#out.written();
  }
}

/** What the header says of a tensor; `offset` counts from the end of the header. */
export interface GgufPlace {
  readonly name: string;
  readonly typeId: number;
  /** Row-major, outermost first; files have it the other way round. */
  readonly shape: readonly number[];
  readonly offset: number;
}

/** Where tensors begin: at multiples of this. It is what readers assume without `general.alignment`. */
export const ALIGNMENT = 32;

/**
 * A GGUF header, version 3:
 *
 *     "GGUF" | u32 version | u64 tensors | u64 entries | entries | tensors | zeros up to the alignment
 *     entry:  string key, u32 type, value        array: u32 type, u64 count, values
 *     tensor: string name, u32 axes, u64 sizes (innermost first), u32 type, u64 offset
 *     string: u64 bytes, UTF-8
 */
export function encodeGgufHeader(entries: GgufEntries, tensors: readonly GgufPlace[]): Uint8Array {
  const out = new ByteWriter();
  out.u32(0x46554747);
  out.u32(3);
  out.u64(tensors.length);
  out.u64(entries.length);
  for (const [key, entry] of entries) {
    out.string(key);
    writeEntry(out, entry);
  }
  for (const { name, typeId, shape, offset } of tensors) {
    out.string(name);
    out.u32(shape.length);
    for (const size of [...shape].reverse()) out.u64(size);
    out.u32(typeId);
    out.u64(offset);
  }
  return out.finish(ALIGNMENT);
}

function writeEntry(out: ByteWriter, entry: GgufEntry): void {
  const array = (type: keyof typeof METADATA_TYPES, count: number) => {
    out.u32(METADATA_TYPES.array);
    out.u32(METADATA_TYPES[type]);
    out.u64(count);
  };
  switch (entry.type) {
    case 'strings':
      array('string', entry.value.length);
      for (const text of entry.value) out.string(text);
      break;
    case 'i32s':
      array('i32', entry.value.length);
      for (const value of entry.value) out.i32(value);
      break;
    case 'f32s':
      array('f32', entry.value.length);
      for (const value of entry.value) out.f32(value);
      break;
    default:
      out.u32(METADATA_TYPES[entry.type]);
      if (entry.type === 'string') out.string(entry.value);
      else if (entry.type === 'bool') out.bool(entry.value);
      else out[entry.type](entry.value);
  }
}
