/** Casts of scalars and vectors from one kind to another. */
import {
  isInteger,
  isSigned,
  kindBits,
  type ScalarKind,
  typeBits,
  typeName,
  type ValueType,
} from '../../../loops/ir.ts';
import type { Helpers } from '../helpers.ts';
import { fullType, registerBytes } from '../types.ts';
import { repeatHelper } from './lanes.ts';
import { neonConvert, neonNarrow, neonScalarHalf, neonWiden } from './neon.ts';
import { asRegister, bits, prefix, suffix } from './x86.ts';

const ROUND = '_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC';

/** `i16x16 i16x16_from_i8x16(i8x16 a)`; undefined where a cast of C does it. */
export function castHelper(h: Helpers, from: ValueType, type: ValueType): string | undefined {
  const narrows = isInteger(from.kind) && isInteger(type.kind) && kindBits(type.kind) < kindBits(from.kind);
  if (type.lanes === 1) return scalarCast(h, from, type, narrows);
  const name = `${typeName(type)}_from_${typeName(from)}`;
  const result = h.type(type);
  const define = (body: string) => h.define(name, h.isaOf(from, type), type, [from], body);
  const integers = isInteger(from.kind) && isInteger(type.kind);
  if (h.arch === 'arm64') {
    if (narrows) return define(neonNarrow(h, from, type));
    return define(
      integers ? `(${result})${neonWiden(from, kindBits(type.kind))}` : neonConvert(h, from, type),
    );
  }
  const mm = prefix(registerBytes(type));
  const a = asRegister(from, 'a');
  if (narrows) return define(narrow(h, from, type));
  if (integers) return define(`(${result})${widen(from, type)}`);
  if (from.kind === 'i32') return define(`(${result})${mm}_cvtepi32_ps(${a})`);
  if (type.kind === 'i32') return define(`(${result})${mm}_cvttps_epi32(${a})`);
  if (from.kind === 'f16') return define(`(${result})${mm}_cvtph_ps(${a})`);
  if (type.kind === 'f16') {
    return define(`(${result})${prefix(registerBytes(from))}_cvtps_ph(${a}, ${ROUND})`);
  }
  const words: ValueType = { kind: 'u32', lanes: type.lanes };
  return define(`(${result})((${h.type(words)})${widen(from, words)} << 16)`);
}

function widen(from: ValueType, type: ValueType): string {
  const target = kindBits(type.kind) === 16 ? 'epi16' : 'epi32';
  return `${prefix(registerBytes(type))}_cvt${suffix(from)}_${target}(${asRegister(from, 'a')})`;
}

/** The largest value of an integer kind. */
function maxOf(kind: ScalarKind): number {
  return 2 ** (kindBits(kind) - (isSigned(kind) ? 1 : 0)) - 1;
}

/**
 * Saturating. Instructions for it take their source as signed (and, in AVX-512, also as unsigned), so an
 * unsigned source is cut to the target's maximum first.
 */
function narrow(h: Helpers, from: ValueType, type: ValueType): string {
  const result = h.type(type);
  const source = h.type(from);
  const reg = registerBytes(from);
  const mm = prefix(reg);
  const signed = isSigned(from.kind);
  const wide = suffix({ ...from, kind: kindBits(from.kind) === 32 ? 'i32' : 'i16' });
  const target = `epi${kindBits(type.kind)}`;
  const limit = () => `${repeatHelper(h, { ...from, lanes: 1 }, fullType(from))}(${maxOf(type.kind)})`;
  const cut = signed
    ? ''
    : `a = (${source})${mm}_min_${suffix(from)}((${bits(reg)})a, (${bits(reg)})${limit()});\n`;
  if (reg === 64) {
    if (!signed) return `${cut}return (${result})_mm512_cvt${wide}_${target}((__m512i)a);`;
    if (isSigned(type.kind)) return `(${result})_mm512_cvts${wide}_${target}((__m512i)a)`;
    const positive = `_mm512_max_${wide}((__m512i)a, _mm512_setzero_si512())`;
    return `(${result})_mm512_cvtus${wide}_${target}(${positive})`;
  }
  const [low, high] =
    reg === 16
      ? ['(__m128i)a', '(__m128i)a']
      : ['_mm256_castsi256_si128((__m256i)a)', '_mm256_extracti128_si256((__m256i)a, 1)'];
  const pack = isSigned(type.kind) ? 'packs' : 'packus';
  const first = typeBits(from) / from.lanes / kindBits(type.kind) === 4 ? 'packs' : pack;
  let body = `_mm_${first}_${wide}(${low}, ${high})`;
  if (kindBits(from.kind) === 32 && kindBits(type.kind) === 8) {
    body = `const __m128i half = ${body};\nreturn (${result})_mm_${pack}_epi16(half, half);`;
    return `${cut}${body}`;
  }
  return cut === '' ? `(${result})${body}` : `${cut}return (${result})${body};`;
}

function scalarCast(h: Helpers, from: ValueType, type: ValueType, narrows: boolean): string | undefined {
  const name = `${typeName(type)}_from_${typeName(from)}`;
  const result = h.type(type);
  if (narrows) {
    const low = isSigned(type.kind) ? -maxOf(type.kind) - 1 : 0;
    const max = maxOf(type.kind);
    const u = from.kind === 'u32' ? 'u' : '';
    const upper = `a > ${max}${u} ? ${max}${u} : a`;
    return h.define(
      name,
      'scalar',
      type,
      [from],
      `(${result})(${isSigned(from.kind) ? `a < ${low} ? ${low} : ` : ''}${upper})`,
    );
  }
  if (h.arch === 'arm64' && (from.kind === 'f16' || type.kind === 'f16')) {
    return h.define(name, 'neon', type, [from], neonScalarHalf(type));
  }
  if (from.kind === 'f16')
    return h.define(name, 'avx2', type, [from], '_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(a)))');
  if (type.kind === 'f16') {
    const packed = `_mm_cvtps_ph(_mm_set_ss(a), ${ROUND})`;
    return h.define(name, 'avx2', type, [from], `(u16)_mm_cvtsi128_si32(${packed})`);
  }
  if (from.kind === 'bf16') {
    return h.define(
      name,
      'scalar',
      type,
      [from],
      'const u32 u = (u32)a << 16;\nf32 r;\nmemcpy(&r, &u, 4);\nreturn r;',
    );
  }
  return undefined;
}
