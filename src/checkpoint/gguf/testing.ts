/** Makes GGUF files for tests from the format's definition, wrong ones included; shares no code with writers. */

type Bytes = readonly number[];

const little = (value: number | bigint, count: number): Bytes =>
  Array.from({ length: count }, (_, i) =>
    Number((BigInt.asUintN(64, BigInt(value)) >> BigInt(8 * i)) & 255n),
  );

export const u32 = (value: number): Bytes => little(value, 4);
export const u64 = (value: number | bigint): Bytes => little(value, 8);
export const f32 = (value: number): Bytes => [...new Uint8Array(Float32Array.of(value).buffer)];
export const text = (value: string): Bytes => {
  const bytes = new TextEncoder().encode(value);
  return [...u64(bytes.length), ...bytes];
};

/** The number of a metadata type and its value. */
export const value = {
  u8: (v: number): Bytes => [...u32(0), v],
  u32: (v: number): Bytes => [...u32(4), ...u32(v)],
  i32: (v: number): Bytes => [...u32(5), ...little(v, 4)],
  f32: (v: number): Bytes => [...u32(6), ...f32(v)],
  bool: (v: boolean): Bytes => [...u32(7), v ? 1 : 0],
  text: (v: string): Bytes => [...u32(8), ...text(v)],
  u64: (v: number | bigint): Bytes => [...u32(10), ...u64(v)],
  i64: (v: number | bigint): Bytes => [...u32(11), ...u64(v)],
  texts: (v: readonly string[]): Bytes => [...u32(9), ...u32(8), ...u64(v.length), ...v.flatMap(text)],
  i32s: (v: readonly number[]): Bytes => [
    ...u32(9),
    ...u32(5),
    ...u64(v.length),
    ...v.flatMap((item) => little(item, 4)),
  ],
  f32s: (v: readonly number[]): Bytes => [...u32(9), ...u32(6), ...u64(v.length), ...v.flatMap(f32)],
};

export interface FixtureTensor {
  readonly name: string;
  readonly type: number;
  /** Innermost first, as in files. */
  readonly sizes: readonly number[];
  readonly data: Uint8Array;
  /** Default: after the tensor before it, aligned. */
  readonly offset?: number;
}

export interface Fixture {
  readonly magic?: string;
  readonly version?: number;
  readonly entries?: readonly (readonly [string, Bytes])[];
  readonly tensors?: readonly FixtureTensor[];
  readonly alignment?: number;
  readonly tensorCount?: number | bigint;
  readonly entryCount?: number | bigint;
}

export function ggufFile(fixture: Fixture): Uint8Array {
  const { entries = [], tensors = [], alignment = 32 } = fixture;
  const padded = (length: number) => Math.ceil(length / alignment) * alignment;
  const header: number[] = [
    ...new TextEncoder().encode(fixture.magic ?? 'GGUF'),
    ...u32(fixture.version ?? 3),
    ...u64(fixture.tensorCount ?? tensors.length),
    ...u64(fixture.entryCount ?? entries.length),
  ];
  // Not push(...bytes): arguments are limited.
  for (const [key, bytes] of entries)
    for (const part of [text(key), bytes]) for (const byte of part) header.push(byte);
  const data: { readonly at: number; readonly bytes: Uint8Array }[] = [];
  let end = 0;
  for (const tensor of tensors) {
    const at = tensor.offset ?? end;
    end = Math.max(end, padded(at + tensor.data.length));
    data.push({ at, bytes: tensor.data });
    header.push(...text(tensor.name), ...u32(tensor.sizes.length), ...tensor.sizes.flatMap(u64));
    header.push(...u32(tensor.type), ...u64(at));
  }
  const start = padded(header.length);
  const file = new Uint8Array(start + end);
  file.set(header);
  for (const { at, bytes } of data) if (start + at + bytes.length <= file.length) file.set(bytes, start + at);
  return file;
}
