import { describe, expect, test } from 'vitest';
import { runFunction } from './interpret.ts';
import { checkLegal } from './legalize/check.ts';
import { legalize } from './legalize.ts';
import type { Machine, NativeOp } from './machine.ts';
import { copyBuffers, firstDifference, randomFunction } from './testing.ts';

function machine(vectorBytes: Machine['vectorBytes'], native: NativeOp[], dotCodeMax: 127 | 255): Machine {
  return {
    name: `${vectorBytes}:${native.join('+')}`,
    vectorBytes,
    vectorRegisters: 16,
    native: new Set(native),
    dotCodeMax,
    l1Bytes: 32768,
    l2Bytes: 1 << 20,
  };
}

const ALL: NativeOp[] = ['dot2', 'madd', 'dot4', 'lookup16', 'averageRound', 'f16'];
const MACHINES = [
  machine(4, [], 255),
  machine(16, ['madd', 'lookup16', 'averageRound'], 255),
  machine(16, ['dot2', 'madd', 'lookup16', 'averageRound'], 127),
  machine(16, [], 255),
  machine(32, ['dot2', 'madd', 'lookup16', 'averageRound', 'f16'], 255),
  machine(64, ALL, 255),
  machine(64, ['dot2', 'dot4'], 127),
];

describe('random functions', () => {
  test.each(MACHINES.map((m) => [m.name, m] as const))('on %s', (_, m) => {
    for (let seed = 0; seed < 80; seed++) {
      const { fn, buffers, scalars } = randomFunction(seed);
      const legal = legalize(fn, m);
      checkLegal(legal, m);
      const [expected, got] = [copyBuffers(buffers), copyBuffers(buffers)];
      runFunction(fn, { buffers: expected, scalars });
      runFunction(legal, { buffers: got, scalars });
      expect(firstDifference(fn, expected, got), `seed ${seed}`).toBeUndefined();
    }
  });
});
