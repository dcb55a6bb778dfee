import { describe, expect, it } from 'vitest';
import { runProgram } from '../../loops/interpret.ts';
import { verifyProgram } from '../../loops/verify.ts';
import { WASM_MACHINES } from '../../targets/wasm/machines.ts';
import { measureBandwidth, readProgram } from './bandwidth.ts';

const CHUNK = 64 << 10;

describe('readProgram', () => {
  it('fills its buffer first, and then reads every byte of it', () => {
    const program = readProgram(2);
    verifyProgram(program);
    const cache = new Uint8Array(2 * CHUNK);
    const arena = new Int32Array(2 * 16);
    const buffers = {
      weights: new Uint8Array(64),
      arena: new Uint8Array(arena.buffer),
      cache,
      logits: new Uint8Array(64),
    };
    const step = (tokens: number) => {
      const sequence = { tokens: new Int32Array(tokens), position: 0, cache: 0, logits: 'last' } as const;
      runProgram(program, { buffers, sequences: [sequence], threads: 2 });
    };
    step(1);
    expect(cache.every((byte) => byte === 1)).toBe(true);
    for (const i of cache.keys()) cache[i] = (i * 7 + (i >> 8)) & 0xff;
    step(2);
    const words = new Int32Array(cache.buffer);
    const expected = new Int32Array(arena.length);
    for (const [i, word] of words.entries()) {
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
