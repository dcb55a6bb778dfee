/** How the loop IR's types and names are spelled in C. */
import { type ScalarKind, typeBits, typeName, type ValueType } from '../../loops/ir.ts';

/** Bytes of the vector registers that C code names: `u8x16`, `u8x32`, `u8x64`. */
export type RegisterBytes = 16 | 32 | 64;

/** The element that GCC's vector extension has for a kind; 16-bit floats are their bits. */
export function elementType(kind: ScalarKind): string {
  return kind === 'f16' || kind === 'bf16' ? 'u16' : kind;
}

/** The name of a type in C: `f32`, `u8x64`. A scalar of a 16-bit float format is its bits. */
export function cType(type: ValueType): string {
  return type.lanes === 1 ? elementType(type.kind) : typeName(type);
}

/**
 * The register that holds a vector. One of less than 16 bytes lies in the low lanes of 16 bytes, the
 * others being anything: x86 has no smaller registers that are good at arithmetic.
 */
export function registerBytes(type: ValueType): RegisterBytes {
  const bytes = typeBits(type) / 8;
  return bytes <= 16 ? 16 : bytes <= 32 ? 32 : 64;
}

/** The type whose lanes fill the register of `type`. */
export function fullType(type: ValueType): ValueType {
  return { kind: type.kind, lanes: (type.lanes * registerBytes(type) * 8) / typeBits(type) };
}

/** The unsigned integer type of the same lanes. */
export function unsignedType(type: ValueType): ValueType {
  const kind = { 8: 'u8', 16: 'u16', 32: 'u32' }[typeBits(type) / type.lanes] as 'u8' | 'u16' | 'u32';
  return { kind, lanes: type.lanes };
}

/** `typedef u8 u8x32 __attribute__((vector_size(32)));` */
export function vectorTypedef(type: ValueType): string {
  const full = fullType(type);
  if (full.lanes !== type.lanes) return `typedef ${typeName(full)} ${typeName(type)};`;
  return `typedef ${elementType(type.kind)} ${typeName(type)} __attribute__((vector_size(${registerBytes(type)})));`;
}

const RESERVED = new Set(
  (
    'auto break case char const continue default do double else enum extern float for goto if inline int long ' +
    'register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while ' +
    'asm typeof'
  ).split(' '),
);

/** Lower-case names that the file itself uses begin like its types, in one of these ways. */
const LIKE_OURS = /^(_|lutra_|team_|cpu_)|(^|_)([iu](8|16|32|64)|f16|bf16|f32)(x\d+)?(_|$)/;

/** A C identifier for a name of the IR, which nothing else in the file has. */
export function identifier(name: string): string {
  const clean = name.replace(/[^A-Za-z0-9_]/g, '_');
  return RESERVED.has(clean) || LIKE_OURS.test(clean) || /^\d/.test(clean) || /^[A-Z0-9_]+$/.test(clean)
    ? `v_${clean}`
    : clean;
}

/** The number as a C literal of a kind; bits of f16 and bf16 never appear as constants. */
export function literal(kind: ScalarKind, value: number): string {
  if (kind === 'f32') {
    if (Number.isNaN(value)) return 'NAN';
    if (!Number.isFinite(value)) return value < 0 ? '-INFINITY' : 'INFINITY';
    const text = Object.is(value, -0) ? '-0' : String(value);
    return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
  }
  if (kind === 'u32') return `${value}u`;
  return value === -(2 ** 31) ? 'INT32_MIN' : String(value);
}
