import { describe, expect, test } from 'vitest';
import { nodePlatform } from '../../platform/node.ts';
import { encodeModule } from './encode.ts';
import { engine } from './engine.ts';
import type { Instr, WasmFunction, WasmModule } from './module.ts';
import { OPCODES, type OpName } from './opcodes.ts';

nodePlatform.unlockEngine();

const memory = { minPages: 1, maxPages: 2, shared: false };

function moduleOf(functions: readonly WasmFunction[], rest: Partial<WasmModule> = {}): WasmModule {
  return { memory, globals: [], functions, data: [], custom: [], ...rest };
}

function fn(name: string, body: readonly Instr[], rest: Partial<WasmFunction> = {}): WasmFunction {
  return { name, params: [], locals: [], body, exported: true, ...rest };
}

/** The bytes after the header, by section. */
function sections(bytes: Uint8Array): Record<number, number[]> {
  const found: Record<number, number[]> = {};
  for (let at = 8; at < bytes.length; ) {
    const id = bytes[at]!;
    const size = bytes[at + 1]!;
    found[id] = [...bytes.slice(at + 2, at + 2 + size)];
    at += 2 + size;
  }
  return found;
}

/** The code of a function with this body, without the sizes and locals before it. */
function codeOf(...body: Instr[]): number[] {
  return sections(encodeModule(moduleOf([fn('f', body)])))[10]!.slice(3);
}

describe('encodeModule', () => {
  test('a small module, byte by byte', () => {
    const add = fn(
      'f',
      [
        ['local.get', 0],
        ['local.get', 1],
        ['i32.store', 2, 300],
      ],
      {
        params: [
          { name: 'a', type: 'i32' },
          { name: 'b', type: 'i32' },
        ],
        locals: [
          { name: 'x', type: 'v128' },
          { name: 'y', type: 'v128' },
          { name: 'z', type: 'f32' },
        ],
      },
    );
    const bytes = encodeModule(
      moduleOf([add], { globals: ['g'], data: [{ at: 200, bytes: Uint8Array.of(1, 2) }] }),
    );
    expect([...bytes.slice(0, 8)]).toEqual([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    const text = (s: string) => [s.length, ...new TextEncoder().encode(s)];
    expect(sections(bytes)).toEqual({
      1: [1, 0x60, 2, 0x7f, 0x7f, 0],
      2: [2, ...text('env'), ...text('memory'), 2, 1, 1, 2, ...text('env'), ...text('g'), 3, 0x7f, 0],
      3: [1, 0],
      7: [1, ...text('f'), 0, 0],
      10: [1, 14, 2, 2, 0x7b, 1, 0x7d, 0x20, 0, 0x20, 1, 0x36, 2, 0xac, 0x02, 0x0b],
      11: [1, 0, 0x41, 0xc8, 0x01, 0x0b, 2, 1, 2],
      0: [...text('name'), 1, 4, 1, 0, ...text('f')],
    });
  });

  test.each<[string, Instr, number[]]>([
    ['a negative constant', ['i32.const', -129], [0x41, 0xff, 0x7e]],
    ['the smallest i32', ['i32.const', -(2 ** 31)], [0x41, 0x80, 0x80, 0x80, 0x80, 0x78]],
    ['63 and 64, which differ in length', ['i32.const', 64], [0x41, 0xc0, 0x00]],
    ['a 64-bit constant', ['i64.const', -1], [0x42, 0x7f]],
    ['a float', ['f32.const', -2], [0x43, 0, 0, 0, 0xc0]],
    ['a SIMD code of two bytes', ['i32x4.add'], [0xfd, 0xae, 0x01]],
    ['a relaxed SIMD code', ['i16x8.relaxed_dot_i8x16_i7x16_s'], [0xfd, 0x92, 0x02]],
    ['an atomic', ['i32.atomic.rmw.add', 2, 64], [0xfe, 0x1e, 2, 64]],
    ['a large offset', ['v128.load', 4, 2 ** 32 - 1], [0xfd, 0, 4, 0xff, 0xff, 0xff, 0xff, 0x0f]],
    ['a store of a lane', ['v128.store32_lane', 2, 8, 3], [0xfd, 90, 2, 8, 3]],
    ['a block', ['loop'], [0x03, 0x40]],
  ])('%s', (_, instr, bytes) => {
    expect(codeOf(instr)).toEqual([...bytes, 0x0b]);
  });

  test('functions of one signature share a type, shared memory is marked', () => {
    const f = fn('f', [], { params: [{ name: 'a', type: 'f32' }], exported: false });
    const found = sections(
      encodeModule(moduleOf([f, { ...f, name: 'g' }, fn('h', [])], { memory: { ...memory, shared: true } })),
    );
    expect(found[1]).toEqual([2, 0x60, 1, 0x7d, 0, 0x60, 0, 0]);
    expect(found[3]).toEqual([3, 0, 0, 1]);
    expect(found[7]).toEqual([1, 1, 0x68, 0, 2]);
    expect(found[2]!.slice(-3)).toEqual([3, 1, 2]);
  });
});

/** What an instruction takes from the stack, from its name. */
function operandsOf(op: OpName): readonly Instr[] {
  const i32: Instr = ['i32.const', 0];
  const f32: Instr = ['f32.const', 0];
  const i64: Instr = ['i64.const', 0];
  const v128: Instr = ['v128.const', ...new Array<number>(16).fill(0)];
  const [type, ...rest] = op.split('.') as [string, ...string[]];
  const name = rest.join('.');
  const scalar = { i32, i64, f32 }[type];
  if (op === 'memory.atomic.wait32') return [i32, i32, i64];
  if (op.endsWith('cmpxchg')) return [i32, i32, i32];
  if (op.includes('atomic')) return name.endsWith('load') ? [i32] : [i32, i32];
  if (name === 'const') return [];
  if (/load/.test(name)) return [i32];
  if (/store/.test(name)) return [i32, type === 'v128' ? v128 : scalar!];
  if (/reinterpret_f32|trunc_sat_f32/.test(name) && scalar) return [f32];
  if (/wrap_i64/.test(name)) return [i64];
  if (/(convert|reinterpret|extend)_i32/.test(name) && scalar) return [i32];
  if (scalar) return /^(eqz|popcnt|abs|neg|nearest|sqrt|extend)/.test(name) ? [scalar] : [scalar, scalar];
  if (name === 'splat') return [type === 'f32x4' ? f32 : i32];
  if (/^extract/.test(name)) return [v128];
  if (/^replace/.test(name)) return [v128, type === 'f32x4' ? f32 : i32];
  if (/^sh[lr]/.test(name)) return [v128, i32];
  if (/bitselect|laneselect|dot_i8x16_i7x16_add/.test(name)) return [v128, v128, v128];
  if (/^(abs|neg|sqrt|nearest|popcnt|ext|convert|trunc_sat|relaxed_trunc)/.test(name)) return [v128];
  return [v128, v128];
}

test('every instruction is what the engine takes it for', () => {
  const control = /^(block|loop|if|else|end|br|br_if|return|call|drop|select|(local|global)\..*)$/;
  const ops = (Object.keys(OPCODES) as OpName[]).filter((op) => !control.test(op));
  expect(ops.length).toBeGreaterThan(150);
  const valid = (body: readonly Instr[]) =>
    engine.validate(encodeModule(moduleOf([fn('f', body)], { memory: { ...memory, shared: true } })));
  for (const op of ops) {
    const args: Record<string, number[]> = {
      memory: [OPCODES[op].prefix === 0xfe ? 2 : 0, 16],
      memoryLane: [0, 16, 1],
      lane: [1],
      bytes: new Array<number>(16).fill(1),
      i32: [5],
      i64: [5],
      f32: [0.5],
    };
    const operands = operandsOf(op);
    const result: Instr[] = /store/.test(op) ? [] : [['drop']];
    const rest: Instr[] = [[op, ...(args[OPCODES[op].immediate] ?? [])], ...result];
    expect(valid([...operands, ...rest]), op).toBe(true);
    // One operand less must not do: so the code really is an instruction of that shape.
    if (operands.length > 0) expect(valid([...operands.slice(1), ...rest]), op).toBe(false);
  }
});
