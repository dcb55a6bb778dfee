/**
 * The bodies of helpers on 64-bit ARM. All its vectors are 16 bytes; those of fewer lie in the low lanes.
 * `narrow`, `widen`, ... are named like what they compute; a, b, c, d are the helper's parameters.
 */
import {
  type BinaryOp,
  isSigned,
  kindBits,
  kindBytes,
  type ScalarKind,
  typeBits,
  type UnaryOp,
  type ValueType,
} from '../../../loops/ir.ts';
import type { Helpers } from '../helpers.ts';
import { elementType } from '../types.ts';

/** How intrinsics spell an element: `u8`, `s16`, `f32`; 16-bit floats are their bits. */
function suffix(kind: ScalarKind): string {
  return elementType(kind).replace('i', 's');
}

/** The type of intrinsics: `uint8x16_t`, of 8 or 16 bytes. */
function register(kind: ScalarKind, bytes: 8 | 16 = 16): string {
  const base = { i: 'int', u: 'uint', f: 'float' }[elementType(kind)[0] as 'i' | 'u' | 'f'];
  return `${base}${kindBits(kind)}x${bytes / kindBytes(kind)}_t`;
}

/** The value `text` as intrinsics want it. */
function as(kind: ScalarKind, text: string): string {
  return `(${register(kind)})${text}`;
}

/** `vminq_u8((uint8x16_t)a, (uint8x16_t)b)`, cast to the result's type. */
function call(
  h: Helpers,
  type: ValueType,
  name: string,
  kind: ScalarKind,
  ...args: readonly string[]
): string {
  return `(${h.type(type)})${name}_${suffix(kind)}(${args.map((x) => as(kind, x)).join(', ')})`;
}

/** Operators that C's are not; the others are done in unsigned lanes, which wrap. */
export function neonBinary(h: Helpers, op: BinaryOp, type: ValueType, symbol: string | undefined): string {
  const { kind } = type;
  if (op === 'averageRound') return call(h, type, 'vrhaddq', kind, 'a', 'b');
  if (op === 'min' || op === 'max') {
    if (kind !== 'f32') return call(h, type, `v${op}q`, kind, 'a', 'b');
    // fmin and fmax differ for NaN and for zeros: the first operand stays unless the comparison holds.
    const mask = op === 'min' ? 'b < a' : 'a < b';
    return `(${h.type(type)})vbslq_f32((uint32x4_t)(${mask}), ${as(kind, 'b')}, ${as(kind, 'a')})`;
  }
  const unsigned = h.unsigned(type);
  return `(${h.type(type)})((${unsigned})a ${symbol} (${unsigned})b)`;
}

export function neonUnary(h: Helpers, op: UnaryOp, type: ValueType): string {
  const { kind } = type;
  const unsigned = h.unsigned(type);
  switch (op) {
    case 'neg':
      return kind === 'f32' ? '-a' : `(${h.type(type)})(0 - (${unsigned})a)`;
    case 'abs':
      return kind === 'f32' || isSigned(kind) ? call(h, type, 'vabsq', kind, 'a') : 'a';
    case 'sqrt':
      return call(h, type, 'vsqrtq', kind, 'a');
    case 'nearest':
      return call(h, type, 'vrndnq', kind, 'a');
    case 'popcount':
      return call(h, type, 'vcntq', kind, 'a');
  }
}

/** Lane-wise a < b ? c : d; the comparison has lanes of all ones or zeros. */
export function neonSelect(h: Helpers, symbol: string, type: ValueType): string {
  const mask = `(uint8x16_t)(a ${symbol} b)`;
  return `(${h.type(type)})vbslq_u8(${mask}, ${as('u8', 'c')}, ${as('u8', 'd')})`;
}

/** The scalar in every lane, or the lanes of a small vector over and over. */
export function neonRepeat(h: Helpers, a: ValueType, type: ValueType): string {
  const result = h.type(type);
  if (a.lanes === 1) return `(${result})vdupq_n_${suffix(a.kind)}(a)`;
  const bits = typeBits(a);
  return `(${result})vdupq_laneq_u${bits}((uint${bits}x${128 / bits}_t)a, 0)`;
}

/** `a` from byte `offset` on. */
export function neonSlice(offset: number): string {
  return `vextq_u8(${as('u8', 'a')}, ${as('u8', 'a')}, ${offset})`;
}

/** Two parts of 2, 4 or 8 bytes each. */
export function neonConcat(h: Helpers, part: ValueType, type: ValueType): string {
  const bits = typeBits(part);
  const lanes = `uint${bits}x${128 / bits}_t`;
  return `(${h.type(type)})vzip1q_u${bits}((${lanes})a, (${lanes})b)`;
}

/** The value at `p`, which nothing aligns. */
export function neonLoad(h: Helpers, type: ValueType): string {
  const bytes = typeBits(type) / 8;
  const result = h.type(type);
  if (bytes === 16) return `(${result})vld1q_u8((const u8 *)p)`;
  if (bytes === 8) return `(${result})vcombine_u8(vld1_u8((const u8 *)p), vdup_n_u8(0))`;
  const lanes = h.type({ kind: bytes === 4 ? 'u32' : 'u16', lanes: 16 / bytes });
  return `u${bytes * 8} bits;\nmemcpy(&bits, p, ${bytes});\nreturn (${result})(${lanes}){bits};`;
}

/** Writes `x` to `p`. */
export function neonStore(h: Helpers, type: ValueType): string {
  const bytes = typeBits(type) / 8;
  if (bytes === 16) return 'vst1q_u8((u8 *)p, (uint8x16_t)x);';
  if (bytes === 8) return 'vst1_u8((u8 *)p, vget_low_u8((uint8x16_t)x));';
  const lanes = h.type({ kind: bytes === 4 ? 'u32' : 'u16', lanes: 16 / bytes });
  return `const u${bytes * 8} bits = ((${lanes})x)[0];\nmemcpy(p, &bits, ${bytes});`;
}

/** Statements that narrow the low lanes of integer `a`, saturating. */
export function neonNarrow(h: Helpers, from: ValueType, type: ValueType): string {
  const [signed, toSigned] = [isSigned(from.kind), isSigned(type.kind)];
  const lines: string[] = [];
  let value = as(from.kind, 'a');
  if (!signed && toSigned) {
    // No instruction saturates unsigned lanes to a signed range.
    const limit = 2 ** (kindBits(type.kind) - 1) - 1;
    value = `vminq_${suffix(from.kind)}(${value}, vdupq_n_${suffix(from.kind)}(${limit}))`;
  }
  for (let bits = kindBits(from.kind); bits > kindBits(type.kind); bits /= 2) {
    const last = bits / 2 === kindBits(type.kind);
    // Signed lanes stay signed until the last step: cut to either range, they are within the next one.
    const op = signed && !toSigned && last ? 'vqmovun' : 'vqmovn';
    const source = `${signed ? 's' : 'u'}${bits}`;
    const narrowed = (signed && !(toSigned === false && last) ? 'i' : 'u') + bits / 2;
    const half = register(narrowed as ScalarKind, 8);
    lines.push(`const ${half} half${bits / 2} = ${op}_${source}(${value});`);
    value = `vcombine_${suffix(narrowed as ScalarKind)}(half${bits / 2}, half${bits / 2})`;
  }
  return [...lines, `return (${h.type(type)})${value};`].join('\n');
}

/** The low lanes of integer (or f16, bf16: its bits) `a` as wider integers. */
export function neonWiden(from: ValueType, bits: number): string {
  let value = as(from.kind, 'a');
  const sign = suffix(from.kind)[0]!;
  for (let have = kindBits(from.kind); have < bits; have *= 2) {
    value = `vmovl_${sign}${have}(vget_low_${sign}${have}(${value}))`;
  }
  return value;
}

/** Casts that are no change of an integer's width. */
export function neonConvert(h: Helpers, from: ValueType, type: ValueType): string {
  const result = h.type(type);
  if (from.kind === 'i32') return call(h, type, 'vcvtq_f32', 'i32', 'a');
  if (type.kind === 'i32') return call(h, type, 'vcvtq_s32', 'f32', 'a');
  if (from.kind === 'f16') return `(${result})vcvt_f32_f16((float16x4_t)vget_low_u16((uint16x8_t)a))`;
  if (type.kind === 'f16') {
    const half = '(uint16x4_t)vcvt_f16_f32((float32x4_t)a)';
    return `(${result})vcombine_u16(${half}, vdup_n_u16(0))`;
  }
  return `(${result})vshlq_n_u32(${neonWiden(from, 32)}, 16)`;
}

/** A scalar cast from or to f16. Every 64-bit ARM processor has it. */
export function neonScalarHalf(type: ValueType): string {
  if (type.kind === 'f32') return '__fp16 half;\nmemcpy(&half, &a, 2);\nreturn (f32)half;';
  return 'const __fp16 half = (__fp16)a;\nu16 bits;\nmemcpy(&bits, &half, 2);\nreturn bits;';
}

/** Products of signed bytes: codes of `a` are at most 127. */
export function neonDot2(h: Helpers, type: ValueType): string {
  const [a, b] = [as('i8', 'a'), as('i8', 'b')];
  return (
    `const int16x8_t low = vmull_s8(vget_low_s8(${a}), vget_low_s8(${b}));\n` +
    `return (${h.type(type)})vpaddq_s16(low, vmull_high_s8(${a}, ${b}));`
  );
}

export function neonMadd(h: Helpers, type: ValueType): string {
  const [a, b] = [as('i16', 'a'), as('i16', 'b')];
  return (
    `const int32x4_t low = vmull_s16(vget_low_s16(${a}), vget_low_s16(${b}));\n` +
    `return (${h.type(type)})vpaddq_s32(low, vmull_high_s16(${a}, ${b}));`
  );
}

/** madd of `a` with ones: the sum of neighbours. */
export function neonPairs(h: Helpers, type: ValueType): string {
  return `(${h.type(type)})vpaddlq_s16(${as('i16', 'a')})`;
}

/** USDOT and SDOT are macros of the prelude. */
export function neonDot4(h: Helpers, unsigned: boolean, type: ValueType): string {
  const codes = as(unsigned ? 'u8' : 'i8', 'b');
  return `(${h.type(type)})${unsigned ? 'USDOT' : 'SDOT'}(${as('i32', 'a')}, ${codes}, ${as('i8', 'c')})`;
}

export function neonLookup16(h: Helpers, type: ValueType): string {
  return `(${h.type(type)})vqtbl1q_u8(${as('u8', 'a')}, ${as('u8', 'b')})`;
}
