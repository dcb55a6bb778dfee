import { describe, expect, it } from 'vitest';
import { runProgram } from '../../loops/interpret.ts';
import { verifyProgram } from '../../loops/verify.ts';
import { WASM_MACHINES } from '../../targets/wasm/machines.ts';
import { measureBandwidth, readProgram } from './bandwidth.ts';

const CHUNK = 64 << 10;

describe('readProgram', () => {
  it('reads every byte of its weights', () => {
    const program = readProgram(2);
    verifyProgram(program);
    const weights = Uint8Array.from({ length: 2 * CHUNK }, (_, i) => (i * 7 + (i >> 8)) & 0xff);
    const arena = new Int32Array(2 * 16);
    const buffers = {
      weights,
      arena: new Uint8Array(arena.buffer),
      cache: new Uint8Array(64),
      logits: new Uint8Array(64),
    };
    const sequence = { tokens: new Int32Array(1), position: 0, cache: 0, logits: 'last' } as const;
    runProgram(program, { buffers, sequences: [sequence], threads: 2 });
    const expected = new Int32Array(arena.length);
    for (const [i, word] of new Int32Array(weights.buffer).entries()) {
      const at = Math.floor(i / (CHUNK / 4)) * 16 + (i % 16);
      expected[at] = expected[at]! + word;
    }
    expect(arena).toEqual(expected);
  });
});

describe('measureBandwidth', () => {
  it('gives bytes per second', async () => {
    const rate = await measureBandwidth(WASM_MACHINES.at(-1)!.name, 1);
    expect(rate).toBeGreaterThan(1e7);
    expect(rate).toBeLessThan(1e13);
  });
});
