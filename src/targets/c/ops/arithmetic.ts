/** Arithmetic that C's operators on scalars and vectors do not give as the loop IR defines it. */
import {
  type BinaryOp,
  type CompareOp,
  isInteger,
  isSigned,
  kindBits,
  typeName,
  type UnaryOp,
  type ValueType,
} from '../../../loops/ir.ts';
import type { Helpers } from '../helpers.ts';
import { registerBytes } from '../types.ts';
import { neonBinary, neonSelect, neonUnary } from './neon.ts';
import { asRegister, prefix, suffix } from './x86.ts';

const SYMBOL: Partial<Record<BinaryOp, string>> = { add: '+', sub: '-', mul: '*', div: '/' };

/** The C operator that computes `op` on this type as the IR wants it, if there is one. */
export function binaryOperator(op: BinaryOp, type: ValueType): string | undefined {
  if (op === 'and') return '&';
  if (op === 'or') return '|';
  if (op === 'xor') return '^';
  if (op === 'rem') return '%';
  if (op === 'div') return '/';
  // Signed overflow is undefined in C, and scalars below 32 bits are computed as int.
  const plain =
    type.kind === 'f32' ||
    type.kind === 'u32' ||
    (type.lanes > 1 && isInteger(type.kind) && !isSigned(type.kind));
  return plain ? SYMBOL[op] : undefined;
}

/** `i16x16 add_i16x16(i16x16 a, i16x16 b)` */
export function binaryHelper(h: Helpers, op: BinaryOp, type: ValueType): string {
  const name = `${op}_${typeName(type)}`.replace('averageRound', 'average');
  const define = (body: string) => h.define(name, h.isaOf(type), type, [type, type], body);
  const result = h.type(type);
  if (type.lanes === 1) {
    if (op === 'min') return define('b < a ? b : a');
    if (op === 'max') return define('a < b ? b : a');
    if (op === 'averageRound') return define(`(${result})((a + b + 1) >> 1)`);
    return define(`(${result})((u32)a ${SYMBOL[op]} (u32)b)`);
  }
  if (h.arch === 'arm64') return define(neonBinary(h, op, type, SYMBOL[op]));
  const call = (intrinsic: string, x: string, y: string) =>
    define(
      `(${result})${prefix(registerBytes(type))}_${intrinsic}_${suffix(type)}` +
        `(${asRegister(type, x)}, ${asRegister(type, y)})`,
    );
  // minps and maxps return their second operand unless the comparison holds: the operands change places.
  if (op === 'min' || op === 'max') return type.kind === 'f32' ? call(op, 'b', 'a') : call(op, 'a', 'b');
  if (op === 'averageRound') return call('avg', 'a', 'b');
  const unsigned = h.unsigned(type);
  return define(`(${result})((${unsigned})a ${SYMBOL[op]} (${unsigned})b)`);
}

export function unaryHelper(h: Helpers, op: UnaryOp, type: ValueType): string {
  const define = (body: string) => h.define(`${op}_${typeName(type)}`, h.isaOf(type), type, [type], body);
  const result = h.type(type);
  if (type.lanes === 1) return define(scalarUnary(op, type, result));
  if (h.arch === 'arm64') return define(neonUnary(h, op, type));
  const mm = prefix(registerBytes(type));
  const a = asRegister(type, 'a');
  const unsigned = h.unsigned(type);
  switch (op) {
    case 'neg':
      return define(type.kind === 'f32' ? '-a' : `(${result})(0 - (${unsigned})a)`);
    case 'abs':
      if (type.kind === 'f32') return define(`(${result})((${unsigned})a & 0x7fffffff)`);
      return define(isSigned(type.kind) ? `(${result})${mm}_abs_${suffix(type)}(${a})` : 'a');
    case 'sqrt':
      return define(`(${result})${mm}_sqrt_ps(${a})`);
    case 'nearest':
      return define(
        `(${result})${mm}_${registerBytes(type) === 64 ? 'roundscale' : 'round'}_ps(${a}, ` +
          '_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)',
      );
    case 'popcount': {
      // Counts of both nibbles, looked up.
      const reg = registerBytes(type);
      const four = '_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4)';
      const broadcast = { 16: '', 32: '_mm256_broadcastsi128_si256', 64: '_mm512_broadcast_i32x4' }[reg];
      const count = (nibbles: string) => `${mm}_shuffle_epi8(counts, (__m${reg * 8}i)(${nibbles}))`;
      return define(
        `const __m${reg * 8}i counts = ${broadcast}(${four});\n` +
          `return (${result})${count('a & 0x0f')} + (${result})${count(`${shiftHelper(h, 'right', type)}(a, 4)`)};`,
      );
    }
  }
}

function scalarUnary(op: UnaryOp, type: ValueType, result: string): string {
  switch (op) {
    case 'neg':
      return type.kind === 'f32' ? '-a' : `(${result})(0u - (u32)a)`;
    case 'abs':
      if (type.kind === 'f32') return 'fabsf(a)';
      return isSigned(type.kind) ? `(${result})(a < 0 ? 0u - (u32)a : (u32)a)` : 'a';
    case 'sqrt':
      return 'sqrtf(a)';
    case 'nearest':
      return 'rintf(a)';
    case 'popcount':
      return '(u8)__builtin_popcount(a)';
  }
}

/** `u8x32 shr_u8x32(u8x32 a, int by)`; undefined where C's operator does it. */
export function shiftHelper(h: Helpers, op: 'left' | 'right', type: ValueType): string | undefined {
  const name = `${op === 'left' ? 'shl' : 'shr'}_${typeName(type)}`;
  const result = h.type(type);
  const define = (body: string) => h.define(name, h.isaOf(type), type, [`${result} a`, 'int by'], body);
  if (type.lanes === 1) {
    if (op === 'right') return undefined; // promotion to int keeps value and sign
    return type.kind === 'u32' ? undefined : define(`(${result})((u32)a << by)`);
  }
  if (kindBits(type.kind) > 8 || h.arch === 'arm64') {
    if (op === 'right' || !isSigned(type.kind)) return undefined;
    return define(`(${result})((${h.unsigned(type)})a << by)`);
  }
  // Shift the u16 lanes and clear the bits that came from the neighbouring byte.
  const words = h.type(wordsOf(type));
  const unsigned = h.unsigned(type);
  const shifted = (symbol: string, mask: string) => `(${unsigned})((${words})a ${symbol} by) & (u8)(${mask})`;
  if (op === 'left') return define(`(${result})(${shifted('<<', '0xff << by')})`);
  if (!isSigned(type.kind)) return define(shifted('>>', '0xff >> by'));
  return define(
    `const u8 sign = (u8)(0x80 >> by);\n` +
      `const ${unsigned} bits = ${shifted('>>', '0xff >> by')};\n` +
      `return (${result})((bits ^ sign) - sign);`,
  );
}

/** The u16 lanes of a register of bytes: x86 cannot shift single bytes. */
function wordsOf(type: ValueType): ValueType {
  return { kind: 'u16', lanes: registerBytes(type) / 2 };
}

const COMPARISON: Record<CompareOp, string> = { lt: '<', le: '<=', eq: '==', ne: '!=' };

/** The C operator of a comparison. */
export function compareOperator(op: CompareOp): string {
  return COMPARISON[op];
}

/** Comparison of scalars behind a function, where compilers would call the plain one pointless. */
export function compareHelper(h: Helpers, op: CompareOp, type: ValueType): string {
  const result: ValueType = { kind: 'i32', lanes: 1 };
  return h.define(`${op}_${typeName(type)}`, 'scalar', result, [type, type], `a ${COMPARISON[op]} b`);
}

/** `f32x8 select_lt_f32x8(a, b, c, d)`: lane-wise a < b ? c : d. */
export function selectHelper(h: Helpers, op: CompareOp, compared: ValueType, type: ValueType): string {
  const suffixes = compared.kind === type.kind ? typeName(type) : `${typeName(compared)}_${typeName(type)}`;
  const name = `select_${op}_${suffixes}`;
  const parameters = [compared, compared, type, type];
  if (type.lanes === 1) {
    return h.define(name, 'scalar', type, parameters, `a ${COMPARISON[op]} b ? c : d`);
  }
  const reg = registerBytes(type);
  const result = h.type(type);
  const isa = h.isaOf(type);
  if (h.arch === 'arm64') return h.define(name, isa, type, parameters, neonSelect(h, COMPARISON[op], type));
  if (reg < 64) {
    const [c, d, mask] = ['c', 'd', `(a ${COMPARISON[op]} b)`].map((x) => `(__m${reg * 8}i)${x}`);
    return h.define(
      name,
      isa,
      type,
      parameters,
      `(${result})${prefix(reg)}_blendv_epi8(${d}, ${c}, ${mask})`,
    );
  }
  const [a, b] = [asRegister(compared, 'a'), asRegister(compared, 'b')];
  const mask =
    compared.kind === 'f32'
      ? `_mm512_cmp_ps_mask(${a}, ${b}, ${{ lt: '_CMP_LT_OS', le: '_CMP_LE_OS', eq: '_CMP_EQ_OQ', ne: '_CMP_NEQ_UQ' }[op]})`
      : `_mm512_cmp${op === 'ne' ? 'neq' : op}_${suffix(compared)}_mask(${a}, ${b})`;
  const blend = `_mm512_mask_blend_epi${kindBits(type.kind)}(${mask}, (__m512i)d, (__m512i)c)`;
  return h.define(name, isa, type, parameters, `(${result})${blend}`);
}
