/** Loads and stores of vectors, at any address. */
import { typeBits, typeName, type ValueType } from '../../../loops/ir.ts';
import type { Helpers } from '../helpers.ts';
import { elementType, registerBytes } from '../types.ts';
import { neonLoad, neonStore } from './neon.ts';
import { bits, prefix } from './x86.ts';

function simd(type: ValueType): string {
  return `si${registerBytes(type) * 8}`;
}

/** `u8x32 load_u8x32(const u8 *p)` */
export function loadHelper(h: Helpers, type: ValueType): string {
  const bytes = typeBits(type) / 8;
  const reg = registerBytes(type);
  const result = h.type(type);
  const body =
    h.arch === 'arm64'
      ? neonLoad(h, type)
      : bytes >= 16
        ? `(${result})${prefix(reg)}_loadu_${simd(type)}((const ${bits(reg)} *)p)`
        : bytes === 8
          ? `(${result})_mm_loadl_epi64((const __m128i *)p)`
          : `u${bytes * 8} bits;\nmemcpy(&bits, p, ${bytes});\nreturn (${result})_mm_cvtsi32_si128((i32)bits);`;
  return h.define(
    `load_${typeName(type)}`,
    h.isaOf(type),
    type,
    [`const ${elementType(type.kind)} *p`],
    body,
  );
}

/** `void store_u8x32(u8 *p, u8x32 x)` */
export function storeHelper(h: Helpers, type: ValueType): string {
  const bytes = typeBits(type) / 8;
  const reg = registerBytes(type);
  const x = `(${bits(reg)})x`;
  const body =
    h.arch === 'arm64'
      ? neonStore(h, type)
      : bytes >= 16
        ? `${prefix(reg)}_storeu_${simd(type)}((${bits(reg)} *)p, ${x});`
        : bytes === 8
          ? `_mm_storel_epi64((__m128i *)p, ${x});`
          : `const u${bytes * 8} bits = (u${bytes * 8})_mm_cvtsi128_si32(${x});\nmemcpy(p, &bits, ${bytes});`;
  const parameters = [`${elementType(type.kind)} *p`, `${h.type(type)} x`];
  return h.define(`store_${typeName(type)}`, h.isaOf(type), 'void', parameters, body);
}
