import { describe, expect, test } from 'vitest';
import { FunctionBuilder } from '../../loops/builder.ts';
import * as x from '../../loops/expr.ts';
import type { Expr, LoopFunction } from '../../loops/ir.ts';
import type { Machine } from '../../loops/machine.ts';
import { emitWat } from './emit.ts';
import { POOL_AT } from './layout.ts';
import { WASM_MACHINES } from './machines.ts';
import { kernelProgram } from './testing.ts';

const machineOf = (name: string) => WASM_MACHINES.find((machine) => machine.name === name)!;
const RELAXED = machineOf('wasm:relaxed');
const DOT4 = machineOf('wasm:relaxed-dot4');
const BASELINE = machineOf('wasm:baseline');

/** The lines of the first function, without indentation. */
function linesOf(fn: LoopFunction, machine: Machine = RELAXED): string[] {
  const text = emitWat(kernelProgram(fn), machine, { shared: false });
  const lines = text.split('\n').map((line) => line.trim());
  const start = lines.findIndex((line) => line.startsWith(`(func $${fn.name} `));
  return lines.slice(start, lines.indexOf(')', start));
}

/** The instructions that compute a value from buffers a, b (of its kinds), without locals and addresses. */
function opsOf(
  kinds: readonly Parameters<typeof x.vector>[0][],
  build: (load: (buffer: number, index: number, lanes: number) => Expr) => Expr,
  machine: Machine = RELAXED,
): string {
  const k = new FunctionBuilder('f');
  const buffers = kinds.map((kind, i) => k.buffer(`in${i}`, kind, 'read'));
  const value = build((buffer, index, lanes) => k.load(buffers[buffer]!, index, lanes));
  k.store(k.buffer('out', value.type.kind, 'write'), 0, value);
  return linesOf(k.build(), machine)
    .filter((line) => !/^\(|^local|^[iv]\d+.*const/.test(line))
    .map((line) => line.replace(/ (offset|align)=\S+/g, ''))
    .join(' ');
}

describe('addresses', () => {
  test('what a loop does not change is added before it, the rest once, constants go into the instruction', () => {
    const k = new FunctionBuilder('walk');
    const w = k.buffer('w', 'u8', 'read');
    const out = k.buffer('out', 'u8', 'write');
    k.for('row', 0, 10, 1, (row) => {
      const start = k.let('start', x.mul(row, 2560));
      k.for('k', 0, 40, 1, (i) => {
        const tile = k.let('tile', x.add(start, x.mul(i, 64)));
        k.store(out, i, k.load(w, x.add(tile, 16), 16));
        k.store(out, x.add(i, 64), k.load(w, x.add(tile, 32), 16));
      });
    });
    const lines = linesOf(k.build());
    const inner = lines.slice(lines.lastIndexOf('loop') + 1, lines.indexOf('end', lines.lastIndexOf('loop')));
    const [store, load] = inner
      .filter((line) => line.startsWith('local.tee $shared'))
      .map((l) => l.slice(10));
    expect(inner.slice(0, -7)).toEqual([
      ...['local.get $out', 'local.get $k', 'i32.add', `local.tee ${store}`],
      ...['local.get $hoisted', 'local.get $k', 'i32.const 6', 'i32.shl', 'i32.add', `local.tee ${load}`],
      'v128.load offset=16 align=1',
      'v128.store align=1',
      `local.get ${store}`,
      `local.get ${load}`,
      'v128.load offset=32 align=1',
      'v128.store offset=64 align=1',
    ]);
    expect(lines.filter((line) => line === 'local.set $hoisted')).toHaveLength(1);
  });

  test('a constant that is negative or reaches beyond what may be folded stays in the address', () => {
    const k = new FunctionBuilder('far');
    const w = k.buffer('w', 'f32', 'read');
    const n = k.scalar('n');
    k.store(k.buffer('out', 'f32', 'write'), 0, k.load(w, x.sub(n, 3)));
    k.store(k.buffer('out', 'f32', 'write'), 0, k.load(w, x.add(n, (5 << 18) + 1)));
    const lines = linesOf(k.build()).filter((line) => !line.startsWith('local'));
    expect(lines.join(' ')).toContain('i32.const -1048576 i32.add f32.load offset=1048564 align=4');
    expect(lines.join(' ')).toContain('i32.const 5242880 i32.add f32.load offset=4 align=4');
  });

  test('a sum is computed again where what it was in is over', () => {
    const k = new FunctionBuilder('branches');
    const out = k.buffer('out', 'i32', 'write');
    const n = k.scalar('n');
    const far = (i: number) => k.store(out, x.add(x.mul(n, 3), i), x.int(i));
    k.if(
      x.compare('lt', n, x.int(5)),
      () => far(1),
      () => far(2),
    );
    far(3);
    far(4);
    const lines = linesOf(k.build());
    expect(lines.filter((line) => line === 'i32.mul')).toHaveLength(3);
  });

  test('a name that changes is read where it is used', () => {
    const k = new FunctionBuilder('moving');
    const w = k.buffer('w', 'u8', 'read');
    const at = k.var('at', x.int(0));
    k.for('i', 0, 4, 1, (i) => {
      k.store(k.buffer('out', 'u8', 'write'), i, k.load(w, at));
      k.set(at, k.load(w, at).kind === 'load' ? x.add(at, 3) : at);
    });
    const lines = linesOf(k.build());
    const body = lines.slice(lines.indexOf('loop')).join(' ');
    expect(body).toContain('local.get $w local.get $at i32.add i32.load8_u');
  });
});

describe('constants', () => {
  test('in a loop they come from the pool once, elsewhere and when cheap they are written in place', () => {
    const k = new FunctionBuilder('masks');
    const w = k.buffer('w', 'u8', 'readwrite');
    const mask = (value: number) => x.and(k.load(w, 0, 16), value);
    k.store(w, 0, mask(7));
    k.for('i', 0, 4, 1, () => {
      k.store(w, 0, mask(3));
      k.store(w, 16, mask(3));
      k.store(w, 32, mask(255));
    });
    const lines = linesOf(k.build());
    expect(lines.filter((line) => line === 'v128.load32_splat align=4')).toHaveLength(1);
    const consts = lines.filter((line) => line.startsWith('v128.const'));
    expect(consts).toEqual(['07070707', 'ffffffff'].map((w) => `v128.const i32x4${` 0x${w}`.repeat(4)}`));
    const text = emitWat(kernelProgram(k.build()), RELAXED, { shared: false });
    expect(text).toContain(`(data (i32.const ${POOL_AT}) "${'\\03'.repeat(16)}")`);
  });
});

describe('selection of instructions', () => {
  const codes = (load: (buffer: number, index: number, lanes: number) => Expr) => load(0, 0, 16);

  test.each<[string, string, string]>([
    [
      'a shift of bytes and a mask share the mask',
      opsOf(['u8'], (load) => x.and(x.shift('right', codes(load), 2), 3)),
      'v128.load i16x8.shr_u v128.and v128.store',
    ],
    [
      'a broadcast of four bytes is one load',
      opsOf(['i8'], (load) => x.repeat(load(0, 8, 4), 4)),
      'v128.load32_splat v128.store',
    ],
    [
      'a broadcast from a register is one shuffle',
      opsOf(['i8'], (load) => x.repeat(x.slice(codes(load), 4, 4), 4)),
      'v128.load i8x16.shuffle 4 5 6 7 4 5 6 7 4 5 6 7 4 5 6 7 v128.store',
    ],
    [
      'dot2, codes second',
      opsOf(['u8', 'i8'], (load) => x.dot2(codes(load), load(1, 16, 16), 3)),
      'v128.load v128.load i16x8.relaxed_dot_i8x16_i7x16_s v128.store',
    ],
    [
      'dot4, codes second',
      opsOf(['u8', 'i8', 'i32'], (load) => x.dot4(load(2, 0, 4), codes(load), load(1, 16, 16), 3), DOT4),
      'v128.load v128.load v128.load i32x4.relaxed_dot_i8x16_i7x16_add_s v128.store',
    ],
    [
      'madd with ones',
      opsOf(['i16'], (load) => x.addPairs(load(0, 0, 8))),
      'v128.load i32x4.extadd_pairwise_i16x8_s v128.store',
    ],
    [
      'bf16 to f32 from memory',
      opsOf(['bf16'], (load) => x.cast(load(0, 0, 4), 'f32')),
      'v128.load16x4_u i32x4.shl v128.store',
    ],
    [
      'widening the upper half',
      opsOf(['u8'], (load) => x.cast(x.slice(codes(load), 8, 8), 'i16')),
      'v128.load i16x8.extend_high_i8x16_u v128.store',
    ],
    [
      'four narrowed vectors as one',
      opsOf(['i32'], (load) => {
        const [a, b, c, d] = [0, 4, 8, 12].map((at) => x.cast(load(0, at, 4), 'i8'));
        return x.concat([x.concat([a!, b!]), x.concat([c!, d!])]);
      }),
      'v128.load v128.load i16x8.narrow_i32x4_s v128.load v128.load i16x8.narrow_i32x4_s ' +
        'i8x16.narrow_i16x8_s v128.store',
    ],
    [
      'joining halves',
      opsOf(['f32'], (load) => x.concat([load(0, 0, 2), load(0, 2, 2)])),
      'v128.load64_zero v128.load64_zero i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 v128.store',
    ],
    [
      'a lookup without relaxed SIMD',
      opsOf(['u8', 'i8'], (load) => x.lookup16(load(1, 0, 16), codes(load)), BASELINE),
      'v128.load v128.load i8x16.swizzle v128.store',
    ],
  ])('%s', (_, actual, expected) => {
    expect(actual).toBe(expected);
  });
});
