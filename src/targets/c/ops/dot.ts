/** The instructions that low-bit kernels are made of. */
import { type Expr, typeName, type ValueType } from '../../../loops/ir.ts';
import type { Helpers } from '../helpers.ts';
import type { Isa } from '../machines.ts';
import { registerBytes } from '../types.ts';
import { neonDot2, neonDot4, neonLookup16, neonMadd, neonPairs } from './neon.ts';
import { asRegister, prefix } from './x86.ts';

type Dot = Extract<Expr, { kind: 'dot2' | 'madd' | 'dot4' | 'lookup16' | 'lookup128' }>;

/** The helper that computes `e` from its operands in order (dot4: accumulator first). */
export function dotHelper(h: Helpers, isa: Isa, e: Dot): string {
  switch (e.kind) {
    case 'dot2':
      return pairs(h, 'dot2', 'maddubs_epi16', e.a.type, e.b.type, e.type);
    case 'madd': {
      const ones = e.b.kind === 'const' && e.b.value === 1;
      if (h.arch === 'arm64' && ones && e.type.lanes > 1) return maddOnes(h, e.a.type, e.type);
      return pairs(h, 'madd', 'madd_epi16', e.a.type, e.b.type, e.type);
    }
    case 'dot4':
      return dot4(h, isa, e.a.type, e.b.type, e.type);
    case 'lookup16':
      return lookup16(h, e.table.type, e.index.type, e.type);
    case 'lookup128':
      return lookup128(h, isa, e.low.type, e.index.type, e.type);
  }
}

/** The sum of products of the first lanes, for results that are scalars. */
function products(lanes: number, a: string, b: string): string {
  return Array.from({ length: lanes }, (_, i) => `(u32)(${a}[${i}] * ${b}[${i}])`).join(' + ');
}

function pairs(
  h: Helpers,
  op: string,
  intrinsic: string,
  a: ValueType,
  b: ValueType,
  type: ValueType,
): string {
  const name = `${op}_${typeName(a)}`;
  const result = h.type(type);
  if (type.lanes === 1) {
    return h.define(name, h.isaOf(a), type, [a, b], `(${result})(${products(2, 'a', 'b')})`);
  }
  if (h.arch === 'arm64') {
    const body = op === 'dot2' ? neonDot2(h, type) : neonMadd(h, type);
    return h.define(name, h.isaOf(a), type, [a, b], body);
  }
  const call = `${prefix(registerBytes(a))}_${intrinsic}(${asRegister(a, 'a')}, ${asRegister(b, 'b')})`;
  return h.define(name, h.isaOf(a), type, [a, b], `(${result})${call}`);
}

/** madd whose second operand is ones: there is one instruction for it. */
function maddOnes(h: Helpers, a: ValueType, type: ValueType): string {
  const body = `(void)b;\nreturn ${neonPairs(h, type)};`;
  return h.define(`madd_ones_${typeName(a)}`, h.isaOf(a), type, [a, a], body);
}

function dot4(h: Helpers, isa: Isa, a: ValueType, b: ValueType, type: ValueType): string {
  const result = h.type(type);
  if (type.lanes === 1) {
    const sum = `(${result})((u32)a + ${products(4, 'b', 'c')})`;
    return h.define(`dot4_${typeName(a)}`, h.isaOf(a), type, [type, a, b], sum);
  }
  if (h.arch === 'arm64') {
    // usdot takes codes of 8 bits, sdot of 7.
    const unsigned = isa === 'i8mm';
    const name = `dot4_${typeName(a)}${unsigned ? '' : '_signed'}`;
    return h.define(name, isa, type, [type, a, b], neonDot4(h, unsigned, type));
  }
  // Both instruction sets have vpdpbusd on 16 and 32 bytes, in two encodings.
  const vex = isa === 'avxvnni';
  const name = `dot4_${typeName(a)}${vex ? '_vex' : ''}`;
  const intrinsic = `${prefix(registerBytes(type))}_dpbusd_${vex ? 'avx_' : ''}epi32`;
  const args = `${asRegister(type, 'a')}, ${asRegister(a, 'b')}, ${asRegister(b, 'c')}`;
  return h.define(name, vex ? isa : 'avx512vnni', type, [type, a, b], `(${result})${intrinsic}(${args})`);
}

function lookup16(h: Helpers, table: ValueType, index: ValueType, type: ValueType): string {
  const name = `lookup16_${typeName(table)}_${typeName(index)}`;
  if (type.lanes === 1) return h.define(name, h.isaOf(table), type, [table, index], 'a[b]');
  if (h.arch === 'arm64') return h.define(name, h.isaOf(type), type, [table, index], neonLookup16(h, type));
  const reg = registerBytes(type);
  const everywhere = {
    16: '(__m128i)a',
    32: '_mm256_broadcastsi128_si256((__m128i)a)',
    64: '_mm512_broadcast_i32x4((__m128i)a)',
  }[reg];
  const body = `(${h.type(type)})${prefix(reg)}_shuffle_epi8(${everywhere}, ${asRegister(index, 'b')})`;
  return h.define(name, h.isaOf(type), type, [table, index], body);
}

/** vpermi2b on 64 bytes, also where fewer lanes are wanted: on smaller registers it has smaller tables. */
function lookup128(h: Helpers, isa: Isa, half: ValueType, index: ValueType, type: ValueType): string {
  const reg = registerBytes(type);
  const [widen, cut] = {
    16: ['_mm512_castsi128_si512', '_mm512_castsi512_si128'],
    32: ['_mm512_castsi256_si512', '_mm512_castsi512_si256'],
    64: ['', ''],
  }[reg] as [string, string];
  const wide = index.lanes === 1 ? '_mm512_set1_epi8((char)c)' : `${widen}(${asRegister(index, 'c')})`;
  const found = `_mm512_permutex2var_epi8((__m512i)a, ${wide}, (__m512i)b)`;
  const body = type.lanes === 1 ? `((${h.type(half)})${found})[0]` : `(${h.type(type)})${cut}(${found})`;
  return h.define(`lookup128_${typeName(half)}_${typeName(index)}`, isa, type, [half, half, index], body);
}
