/**
 * Reads GGUF headers (versions 2 and 3, little endian; see metadata.ts for the layout). Nothing in a file is
 * believed before it is checked: counts and lengths against the bytes that are there, before anything of
 * that size is allocated; tensors against the end of the file and against each other.
 */
import { LutraError } from '../../common/errors.ts';
import { alignUp } from '../../common/math.ts';
import { malformed, quote } from '../failure.ts';
import { ALIGNMENT, METADATA_TYPES } from './metadata.ts';
import { type GgufType, type Recognized, recognizeType } from './types.ts';

/** 64-bit integers beyond 2^53 stay bigint. */
export type GgufScalar = number | bigint | boolean | string;
export type GgufValue = GgufScalar | readonly GgufScalar[];

/** A tensor as the file describes it. */
export interface GgufTensor {
  readonly name: string;
  /** The type as lutra reads it; undefined for one it does not, which `typeName` names. */
  readonly type: GgufType | undefined;
  readonly typeName: string;
  /** Row-major, outermost first: files have it the other way round. */
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly begin: number;
  /** Where its bytes end; for a type of unknown size, where the next tensor begins. */
  readonly end: number;
}

export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** In the order of their bytes. */
  readonly tensors: readonly GgufTensor[];
}

/** Larger headers are refused: a vocabulary of 262,144 tokens with its merges has about 16 MB. */
export const MAX_HEADER_BYTES = 96 * 1024 * 1024;
const MAX_AXES = 4;
const MAX_NAME_BYTES = 1024;
/** What a header cannot have more of than this: names of values in the IR, and time, are worth something. */
const MAX_TENSORS = 1 << 17;
const MAX_ENTRIES = 1 << 16;

/** Thrown by the cursor when the bytes at hand end before the header does. */
class MoreNeeded extends Error {}

/** The header, or undefined when it goes on beyond `prefix`. */
export function parseGgufHeader(prefix: Uint8Array, fileBytes: number, file: string): GgufHeader | undefined {
  try {
    return new HeaderParser(prefix, fileBytes, file).parse();
  } catch (error) {
    if (error instanceof MoreNeeded) return undefined;
    throw error;
  }
}

type ScalarType = Exclude<keyof typeof METADATA_TYPES, 'array'>;

const TYPE_NAMES = Object.keys(METADATA_TYPES) as (keyof typeof METADATA_TYPES)[];
/** The fewest bytes a value has: for strings those of the length. */
const SCALAR_BYTES: Readonly<Record<ScalarType, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  string: 8,
  u64: 8,
  i64: 8,
  f64: 8,
};

interface RawTensor {
  readonly name: string;
  readonly typeId: number;
  readonly shape: readonly number[];
  readonly offset: number;
}

class HeaderParser {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #fileBytes: number;
  readonly #file: string;
  readonly #decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  #at = 0;

  constructor(prefix: Uint8Array, fileBytes: number, file: string) {
    this.#bytes = prefix;
    this.#view = new DataView(prefix.buffer, prefix.byteOffset, prefix.byteLength);
    this.#fileBytes = fileBytes;
    this.#file = file;
  }

  parse(): GgufHeader {
    this.#checkStart();
    const tensorCount = this.#count('tensors', MAX_TENSORS, 24);
    const entryCount = this.#count('metadata entries', MAX_ENTRIES, 13);
    const metadata = new Map<string, GgufValue>();
    for (let i = 0; i < entryCount; i++) {
      const key = this.#name(`the key of metadata entry ${i}`);
      if (metadata.has(key)) throw this.#malformed(`it has the key ${quote(key)} twice`, 'each key once');
      metadata.set(key, this.#value(key));
    }
    const raw: RawTensor[] = [];
    const names = new Set<string>();
    for (let i = 0; i < tensorCount; i++) {
      const tensor = this.#tensor(i);
      if (names.has(tensor.name)) {
        throw this.#malformed(`it has the tensor ${quote(tensor.name)} twice`, 'each tensor once');
      }
      names.add(tensor.name);
      raw.push(tensor);
    }
    return { metadata, tensors: this.#place(raw, this.#alignment(metadata)) };
  }

  #malformed(what: string, expected: string): LutraError {
    return malformed(this.#file, what, expected);
  }

  #checkStart(): void {
    if (this.#fileBytes < 24) {
      throw this.#malformed(`the file has ${this.#fileBytes} bytes`, 'a GGUF file of at least 24');
    }
    if (this.#u32() !== 0x46554747) {
      throw this.#malformed('it does not begin with "GGUF"', 'a GGUF file');
    }
    const version = this.#u32();
    if (version === 2 || version === 3) return;
    const bigEndian = (version & 0xffff) === 0 && version !== 0;
    throw new LutraError(
      'unsupported',
      `${this.#file} is a ${bigEndian ? 'big-endian GGUF file' : `GGUF file of version ${version}`}`,
      { hint: 'lutra reads little-endian files of versions 2 and 3: get a newer conversion.' },
    );
  }

  /** Moves on by `count` bytes and returns where they begin. */
  #take(count: number): number {
    const at = this.#at;
    const end = at + count;
    if (end > this.#fileBytes) {
      throw this.#malformed(`the file ends at byte ${this.#fileBytes}, inside the header`, `${end} at least`);
    }
    if (end > MAX_HEADER_BYTES) {
      throw this.#malformed('its header is too long', `at most ${MAX_HEADER_BYTES} bytes`);
    }
    if (end > this.#bytes.length) throw new MoreNeeded();
    this.#at = end;
    return at;
  }

  #u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** A length or offset: at most 2^53. */
  #size(what: string): number {
    const value = this.#view.getBigUint64(this.#take(8), true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER))
      throw this.#malformed(`${what} is ${value}`, 'less than 2^53');
    return Number(value);
  }

  /** A number of things of at least `bytes` bytes each, which must have room in the rest of the file. */
  #count(what: string, limit: number, bytes: number): number {
    const count = this.#size(`the number of ${what}`);
    const room = Math.floor((Math.min(this.#fileBytes, MAX_HEADER_BYTES) - this.#at) / bytes);
    if (count > Math.min(limit, room)) {
      throw this.#malformed(`it claims ${count} ${what}`, `at most ${Math.min(limit, room)}`);
    }
    return count;
  }

  #string(what: string, limit = MAX_HEADER_BYTES): string {
    const length = this.#size(`the length of ${what}`);
    if (length > limit) throw this.#malformed(`${what} has ${length} bytes`, `at most ${limit}`);
    const at = this.#take(length);
    try {
      return this.#decoder.decode(this.#bytes.subarray(at, at + length));
    } catch {
      throw this.#malformed(`${what} is not valid UTF-8`, 'text in UTF-8');
    }
  }

  #name(what: string): string {
    return this.#string(what, MAX_NAME_BYTES);
  }

  #scalar(type: ScalarType, what: string): GgufScalar {
    const view = this.#view;
    if (type === 'string') return this.#string(what);
    const at = this.#take(SCALAR_BYTES[type]);
    switch (type) {
      case 'u8':
        return view.getUint8(at);
      case 'i8':
        return view.getInt8(at);
      case 'u16':
        return view.getUint16(at, true);
      case 'i16':
        return view.getInt16(at, true);
      case 'u32':
        return view.getUint32(at, true);
      case 'i32':
        return view.getInt32(at, true);
      case 'f32':
        return view.getFloat32(at, true);
      case 'f64':
        return view.getFloat64(at, true);
      case 'bool':
        return view.getUint8(at) !== 0;
      case 'u64':
        return narrow(view.getBigUint64(at, true));
      case 'i64':
        return narrow(view.getBigInt64(at, true));
    }
  }

  #type(what: string): keyof typeof METADATA_TYPES {
    const id = this.#u32();
    const name = TYPE_NAMES[id];
    if (name === undefined) throw this.#malformed(`${what} has the type ${id}`, '0 to 12');
    return name;
  }

  #value(key: string): GgufValue {
    const what = `metadata ${quote(key)}`;
    const type = this.#type(what);
    if (type !== 'array') return this.#scalar(type, what);
    const element = this.#type(what);
    if (element === 'array') {
      throw new LutraError('unsupported', `${this.#file}: ${what} is an array of arrays`, {
        hint: 'No key that lutra knows has such a value.',
      });
    }
    const count = this.#count(`values of ${what}`, MAX_HEADER_BYTES, SCALAR_BYTES[element]);
    const values: GgufScalar[] = [];
    for (let i = 0; i < count; i++) values.push(this.#scalar(element, what));
    return values;
  }

  #tensor(index: number): RawTensor {
    const name = this.#name(`the name of tensor ${index}`);
    const where = `tensor ${quote(name)}`;
    const axes = this.#u32();
    if (axes > MAX_AXES) throw this.#malformed(`${where} has ${axes} axes`, `at most ${MAX_AXES}`);
    const shape: number[] = [];
    let total = 1;
    for (let axis = 0; axis < axes; axis++) {
      const size = this.#size(`a size of ${where}`);
      total *= size;
      // Bits of the widest type must be countable too.
      if (size === 0 || total > 2 ** 46) {
        throw this.#malformed(`${where} has an axis of ${size}`, 'sizes above 0 with a product up to 2^46');
      }
      shape.unshift(size);
    }
    const typeId = this.#u32();
    return { name, typeId, shape, offset: this.#size(`the offset of ${where}`) };
  }

  #alignment(metadata: ReadonlyMap<string, GgufValue>): number {
    const value = metadata.get('general.alignment') ?? ALIGNMENT;
    if (typeof value === 'number' && value >= 8 && value <= 1 << 20 && (value & (value - 1)) === 0)
      return value;
    throw this.#malformed(
      `general.alignment is ${String(value).slice(0, 40)}`,
      'a power of two from 8 to 2^20',
    );
  }

  /** Turns offsets into places in the file, and types into what lutra knows of them. */
  #place(raw: RawTensor[], alignment: number): GgufTensor[] {
    const dataStart = alignUp(this.#at, alignment);
    raw.sort((a, b) => a.offset - b.offset);
    return raw.map((tensor, index) => {
      const { name, shape, offset } = tensor;
      const where = `tensor ${quote(name)}`;
      const begin = dataStart + offset;
      if (offset % alignment !== 0) {
        throw this.#malformed(`${where} begins at offset ${offset}`, `a multiple of ${alignment}`);
      }
      // Converters of bitnet.cpp list the scale at the end of such a matrix as a tensor of its own, too.
      const next = raw[index + 1]?.name === `${name}_scale` ? raw[index + 2] : raw[index + 1];
      const limit = next === undefined ? this.#fileBytes : Math.min(dataStart + next.offset, this.#fileBytes);
      if (begin > this.#fileBytes) {
        throw this.#malformed(`${where} begins at byte ${begin}`, `a file of more than ${this.#fileBytes}`);
      }
      const room = limit - begin;
      const known = recognizeType(tensor.typeId, shape, room, alignment);
      if (known.bytes === undefined) return { name, ...named(known), shape, begin, end: limit };
      if (!Number.isInteger(known.bytes)) {
        const row = shape.at(-1) ?? 1;
        throw this.#malformed(
          `${where} has rows of ${row} values`,
          `a multiple of what a block of ${known.name} has`,
        );
      }
      if (known.bytes > room) {
        throw next === undefined || begin + known.bytes > this.#fileBytes
          ? this.#malformed(
              `${where} ends at byte ${begin + known.bytes}`,
              `at most ${this.#fileBytes}, the file's end`,
            )
          : this.#malformed(`${where} overlaps ${quote(next.name)}`, `${known.bytes} bytes between them`);
      }
      return { name, ...named(known), shape, begin, end: begin + known.bytes };
    });
  }
}

function named({ type, name }: Recognized): Pick<GgufTensor, 'type' | 'typeName'> {
  return { type, typeName: name };
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
