import { describe, expect, test } from 'vitest';
import { FunctionBuilder } from '../../loops/builder.ts';
import { dot4 } from '../../loops/expr.ts';
import { nodePlatform } from '../../platform/node.ts';
import { emitWasm } from './emit.ts';
import { engine } from './engine.ts';
import { detectWasmMachines, WASM_MACHINES } from './machines.ts';
import { kernelProgram, runWasm } from './testing.ts';

const names = detectWasmMachines(nodePlatform).map(({ name }) => name);

describe('detectWasmMachines', () => {
  test('finds relaxed SIMD in every supported Node, and falls back to the baseline last', () => {
    expect(names).toContain('wasm:relaxed');
    expect(names.at(-1)).toBe('wasm:baseline');
    expect(new Set(names).size).toBe(names.length);
  });

  test('offers dot4 only where the engine computes it right', () => {
    const k = new FunctionBuilder('dots');
    const acc = k.buffer('acc', 'i32', 'readwrite');
    const [codes, x] = [k.buffer('codes', 'u8', 'read'), k.buffer('x', 'i8', 'read')];
    k.store(acc, 0, dot4(k.load(acc, 0, 4), k.load(codes, 0, 16), k.load(x, 0, 16), 127));
    const machine = WASM_MACHINES.find(({ native }) => native.has('dot4'))!;
    expect(engine.validate(emitWasm(kernelProgram(k.build()), machine, { shared: true }))).toBe(true);

    const buffers = [Int32Array.of(5, 6, 7, 8), new Uint8Array(16).fill(127), new Int8Array(16).fill(-128)];
    const bytes = buffers.map((array) => new Uint8Array(array.buffer));
    const [result] = runWasm(k.build(), machine, { buffers: bytes, scalars: [] });
    const right = new Int32Array(result!.buffer).every((sum, i) => sum === 5 + i - 4 * 127 * 128);
    expect(names.includes(machine.name)).toBe(right);
  });
});
