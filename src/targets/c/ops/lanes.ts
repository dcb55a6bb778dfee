/** Moving lanes: repeat, slice, concat, shuffle, and seeing the same bits as another type. */
import { kindBytes, type ScalarKind, typeBits, typeName, type ValueType } from '../../../loops/ir.ts';
import type { Helpers } from '../helpers.ts';
import { fullType, registerBytes } from '../types.ts';
import { neonConcat, neonRepeat, neonSlice } from './neon.ts';
import { bits, prefix } from './x86.ts';

/** `u8x32 splat_u8x32(u8 a)`; of a vector, `i8x32 repeat_i8x4_x8(i8x4 a)`. */
export function repeatHelper(h: Helpers, a: ValueType, type: ValueType): string {
  const reg = registerBytes(type);
  const result = h.type(type);
  if (h.arch === 'arm64') {
    const name = a.lanes === 1 ? `splat_${typeName(type)}` : `repeat_${typeName(a)}_x${type.lanes / a.lanes}`;
    return h.define(name, h.isaOf(a, type), type, [a], neonRepeat(h, a, type));
  }
  if (a.lanes === 1) {
    const argument = { 1: 'epi8((char)a)', 2: 'epi16((i16)a)', 4: 'epi32((i32)a)' }[kindBytes(a.kind)];
    const call = a.kind === 'f32' ? 'ps(a)' : argument;
    return h.define(
      `splat_${typeName(type)}`,
      h.isaOf(type),
      type,
      [a],
      `(${result})${prefix(reg)}_set1_${call}`,
    );
  }
  const unit = typeBits(a) / 8;
  const broadcast: Record<number, string> = {
    2: `${prefix(reg)}_broadcastw_epi16`,
    4: `${prefix(reg)}_broadcastd_epi32`,
    8: `${prefix(reg)}_broadcastq_epi64`,
    16: reg === 64 ? '_mm512_broadcast_i32x4' : '_mm256_broadcastsi128_si256',
    32: '_mm512_broadcast_i64x4',
  };
  const body = `(${result})${broadcast[unit]}((${bits(registerBytes(a))})a)`;
  return h.define(`repeat_${typeName(a)}_x${type.lanes / a.lanes}`, h.isaOf(a, type), type, [a], body);
}

/** `f32 lane_f32x8(f32x8 a, int i)` */
export function laneHelper(h: Helpers, a: ValueType): string {
  const scalar = { kind: a.kind, lanes: 1 };
  return h.define(`lane_${typeName(a)}`, h.isaOf(a), scalar, [`${h.type(a)} a`, 'int i'], 'a[i]');
}

/** Lanes start.. of `a`, two or more; undefined when the register of `a` already is the answer. */
export function sliceHelper(h: Helpers, a: ValueType, start: number, type: ValueType): string | undefined {
  const from = registerBytes(a);
  const offset = start * kindBytes(a.kind);
  const bytes = typeBits(type) / 8;
  if (offset === 0 && from === registerBytes(type)) return undefined;
  const body = h.arch === 'arm64' ? neonSlice(offset) : slicedRegister(from, offset, bytes);
  if (body === undefined) {
    return shuffleHelper(
      h,
      a,
      Array.from({ length: type.lanes }, (_, i) => start + i),
      type,
    );
  }
  const name = `slice${start}_${typeName(a)}_${typeName(type)}`;
  return h.define(name, h.isaOf(a, type), type, [a], `(${h.type(type)})${body}`);
}

/** `bytes` bytes from byte `offset` of a register `a`, where no general permutation is needed. */
function slicedRegister(from: number, offset: number, bytes: number): string | undefined {
  const source = `(__m${from * 8}i)a`;
  if (bytes === 32) {
    if (from !== 64 || offset % 32 !== 0) return undefined;
    return offset === 0 ? `_mm512_castsi512_si256(${source})` : `_mm512_extracti64x4_epi64(${source}, 1)`;
  }
  const [block, within] = [Math.floor(offset / 16), offset % 16];
  if (bytes > 16 || within + bytes > 16) return undefined;
  let low = source;
  if (from !== 16) {
    if (block === 0) low = `_mm${from * 8}_castsi${from * 8}_si128(${source})`;
    else if (from === 32) low = `_mm256_extracti128_si256(${source}, 1)`;
    else low = `_mm512_extracti32x4_epi32(${source}, ${block})`;
  }
  return within === 0 ? low : `_mm_srli_si128(${low}, ${within})`;
}

/** Two parts of one type after each other: `f32x8 concat_f32x4(f32x4 a, f32x4 b)`. */
export function concatHelper(h: Helpers, part: ValueType, type: ValueType): string {
  const name = `concat_${typeName(part)}`;
  const result = h.type(type);
  if (part.lanes === 1) return h.define(name, h.isaOf(type), type, [part, part], `(${result}){a, b}`);
  if (h.arch === 'arm64') return h.define(name, h.isaOf(type), type, [part, part], neonConcat(h, part, type));
  const unit = typeBits(part) / 8;
  const [a, b] = ['a', 'b'].map((x) => `(${bits(registerBytes(part))})${x}`);
  const call: Record<number, string> = {
    2: `_mm_unpacklo_epi16(${a}, ${b})`,
    4: `_mm_unpacklo_epi32(${a}, ${b})`,
    8: `_mm_unpacklo_epi64(${a}, ${b})`,
    16: `_mm256_inserti128_si256(_mm256_castsi128_si256(${a}), ${b}, 1)`,
    32: `_mm512_inserti64x4(_mm512_castsi256_si512(${a}), ${b}, 1)`,
  };
  return h.define(name, h.isaOf(part, type), type, [part, part], `(${result})${call[unit]}`);
}

/** Any lanes in any order. The lanes of the register beyond `type` are left to the compiler (-1). */
export function shuffleHelper(h: Helpers, a: ValueType, indices: readonly number[], type: ValueType): string {
  const unused = fullType(type).lanes - type.lanes;
  const list = [...indices, ...Array.from({ length: unused }, () => -1)];
  const name = `shuffle_${typeName(a)}_${shortName(indices)}`;
  const body = `SHUFFLE(${h.type(type)}, a, ${list.join(', ')})`;
  return h.define(name, h.isaOf(a, type), type, [a], body);
}

/** `1_0_3_2`, or a hash where that would be too long to read. */
function shortName(indices: readonly number[]): string {
  if (indices.length <= 8) return indices.join('_');
  let hash = 0x811c9dc5;
  for (const i of indices) hash = Math.imul(hash ^ i, 0x01000193) >>> 0;
  return `${indices.length}_${hash.toString(16).padStart(8, '0')}`;
}

/** The scalar kind of that many bits that C code moves between register files. */
function carrier(type: ValueType): ScalarKind {
  return type.kind === 'f32' ? 'f32' : ({ 8: 'u8', 16: 'u16', 32: 'u32' }[typeBits(type)] as ScalarKind);
}

/** The same bits as another type; undefined where a cast of C does it. */
export function bitcastHelper(h: Helpers, a: ValueType, type: ValueType): string | undefined {
  if (a.lanes > 1 && type.lanes > 1) return undefined;
  const name = `bits_${typeName(a)}_as_${typeName(type)}`;
  if (a.lanes === 1 && type.lanes === 1) {
    if (a.kind !== 'f32' && type.kind !== 'f32') return undefined;
    const result = h.type(type);
    return h.define(name, 'scalar', type, [a], `${result} r;\nmemcpy(&r, &a, sizeof r);\nreturn r;`);
  }
  const [scalar, vector] = a.lanes === 1 ? [a, type] : [type, a];
  const kind = carrier(scalar);
  const through = h.type({ kind, lanes: 16 / kindBytes(kind) });
  const body =
    a.lanes === 1 ? `(${h.type(type)})(${through}){(${kind})a}` : `(${h.type(type)})((${through})a)[0]`;
  return h.define(name, h.isaOf(vector), type, [a], body);
}
