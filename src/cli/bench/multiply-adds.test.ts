import { describe, expect, it } from 'vitest';
import { runProgram } from '../../loops/interpret.ts';
import { legalize } from '../../loops/legalize.ts';
import { verifyProgram } from '../../loops/verify.ts';
import { C_MACHINES } from '../../targets/c/machines.ts';
import { WASM_MACHINES } from '../../targets/wasm/machines.ts';
import { multiplyAddProgram, openMultiplyAdds, operationsOf } from './multiply-adds.ts';

const CHUNKS = 3;
const ROUNDS = 2;

describe.each([...C_MACHINES, ...WASM_MACHINES])('multiplyAddProgram for $name', (machine) => {
  it('computes as many products as it is said to', () => {
    const program = multiplyAddProgram(machine, CHUNKS, ROUNDS);
    verifyProgram(program);
    const arena = new Int32Array(CHUNKS * 16);
    const run = (functions = program.functions) => {
      const buffers = {
        // All ones: each sum is the number of products in it.
        weights: new Uint8Array(4096).fill(1),
        arena: new Uint8Array(arena.fill(0).buffer),
        cache: new Uint8Array(64),
        logits: new Uint8Array(64),
      };
      const sequence = { tokens: new Int32Array(1), position: 0, cache: 0, logits: 'last' } as const;
      runProgram({ ...program, functions }, { buffers, sequences: [sequence], threads: 2 });
      return arena.slice();
    };
    const sums = run();
    const words = machine.native.has('madd') && !machine.native.has('dot2') && !machine.native.has('dot4');
    const i16Sums = machine.native.has('dot2') && !machine.native.has('dot4');
    // Words of all ones are 257: their products are that much larger.
    const unit = words ? 257 * 257 : 1;
    const first = sums.subarray(0, 16);
    const lanes = i16Sums ? [...new Int16Array(first.buffer, first.byteOffset, 32)] : [...first];
    const products = lanes.reduce((sum, value) => sum + value / unit, 0);
    expect(products).toBe(operationsOf(machine, ROUNDS) / 2);
    expect(sums.subarray(16, 32)).toEqual(first);
    expect(run(program.functions.map((fn) => legalize(fn, machine)))).toEqual(sums);
  });
});

describe('openMultiplyAdds', () => {
  it('gives operations per second, as often as it is asked', async () => {
    const meter = await openMultiplyAdds(WASM_MACHINES.at(-1)!.name, 1);
    try {
      for (const rate of [await meter.measure(), await meter.measure()]) {
        expect(rate).toBeGreaterThan(1e7);
        expect(rate).toBeLessThan(1e14);
      }
    } finally {
      await meter.close();
    }
  });
});
