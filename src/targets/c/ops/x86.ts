/** Names of Intel's intrinsics for a register size. */
import type { ValueType } from '../../../loops/ir.ts';
import { type RegisterBytes, registerBytes } from '../types.ts';

/** `_mm`, `_mm256`, `_mm512`. */
export function prefix(bytes: RegisterBytes): string {
  return bytes === 16 ? '_mm' : `_mm${bytes * 8}`;
}

/** `__m256i`, or `__m256` for floats. */
export function register(type: ValueType): string {
  return `__m${registerBytes(type) * 8}${type.kind === 'f32' ? '' : 'i'}`;
}

/** The register as bits: `__m256i`. */
export function bits(bytes: RegisterBytes): string {
  return `__m${bytes * 8}i`;
}

/** The value `text` seen as intrinsics want it. */
export function asRegister(type: ValueType, text: string): string {
  return `(${register(type)})${text}`;
}

/** How intrinsics spell an element: `epi16`, `epu8`, `ps`. */
export function suffix(type: ValueType): string {
  if (type.kind === 'f32') return 'ps';
  const kind = type.kind === 'f16' || type.kind === 'bf16' ? 'u16' : type.kind;
  return kind.replace('i', 'epi').replace('u', 'epu');
}
