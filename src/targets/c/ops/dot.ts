/** The instructions that low-bit kernels are made of. */
import { type Expr, typeName, type ValueType } from '../../../loops/ir.ts';
import { type Helpers, isaOf } from '../helpers.ts';
import type { Isa } from '../machines.ts';
import { registerBytes } from '../types.ts';
import { asRegister, prefix } from './x86.ts';

type Dot = Extract<Expr, { kind: 'dot2' | 'madd' | 'dot4' | 'lookup16' }>;

/** The helper that computes `e` from its operands in order (dot4: accumulator first). */
export function dotHelper(h: Helpers, isa: Isa, e: Dot): string {
  switch (e.kind) {
    case 'dot2':
      return pairs(h, `dot2_${typeName(e.a.type)}`, 'maddubs_epi16', e.a.type, e.b.type, e.type);
    case 'madd':
      return pairs(h, `madd_${typeName(e.a.type)}`, 'madd_epi16', e.a.type, e.b.type, e.type);
    case 'dot4':
      return dot4(h, isa, e.a.type, e.b.type, e.type);
    case 'lookup16':
      return lookup16(h, e.table.type, e.index.type, e.type);
  }
}

function pairs(
  h: Helpers,
  name: string,
  intrinsic: string,
  a: ValueType,
  b: ValueType,
  type: ValueType,
): string {
  const call = `${prefix(registerBytes(a))}_${intrinsic}(${asRegister(a, 'a')}, ${asRegister(b, 'b')})`;
  return h.define(name, isaOf(a, type), type, [a, b], `(${h.type(type)})${call}`);
}

function dot4(h: Helpers, isa: Isa, a: ValueType, b: ValueType, type: ValueType): string {
  // Both instruction sets have vpdpbusd on 16 and 32 bytes, in two encodings.
  const vex = isa === 'avxvnni';
  const name = `dot4_${typeName(a)}${vex ? '_vex' : ''}`;
  const intrinsic = `${prefix(registerBytes(type))}_dpbusd_${vex ? 'avx_' : ''}epi32`;
  const args = `${asRegister(type, 'a')}, ${asRegister(a, 'b')}, ${asRegister(b, 'c')}`;
  return h.define(name, isa, type, [type, a, b], `(${h.type(type)})${intrinsic}(${args})`);
}

function lookup16(h: Helpers, table: ValueType, index: ValueType, type: ValueType): string {
  const reg = registerBytes(type);
  const everywhere = {
    16: '(__m128i)a',
    32: '_mm256_broadcastsi128_si256((__m128i)a)',
    64: '_mm512_broadcast_i32x4((__m128i)a)',
  }[reg];
  const body = `(${h.type(type)})${prefix(reg)}_shuffle_epi8(${everywhere}, ${asRegister(index, 'b')})`;
  const name = `lookup16_${typeName(table)}_${typeName(index)}`;
  return h.define(name, isaOf(type), type, [table, index], body);
}
