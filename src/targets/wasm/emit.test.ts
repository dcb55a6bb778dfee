import { describe, expect, test } from 'vitest';
import { runFunction } from '../../loops/interpret.ts';
import { legalize } from '../../loops/legalize.ts';
import { copyBuffers, firstDifference, randomFunction } from '../../loops/testing.ts';
import { threadLoop } from '../../loops/thread.ts';
import { nodePlatform } from '../../platform/node.ts';
import { detectWasmMachines } from './machines.ts';
import { runWasm } from './testing.ts';

describe.each(detectWasmMachines(nodePlatform))('$name', (machine) => {
  test('random functions give the bits of the interpreter', () => {
    for (let seed = 0; seed < 80; seed++) {
      const { fn, buffers, scalars } = randomFunction(seed);
      const expected = copyBuffers(buffers);
      const range = threadLoop(fn) === undefined ? {} : { range: { begin: 0, end: scalars[0]! } };
      runFunction(fn, { buffers: expected, scalars, ...range });
      const actual = runWasm(legalize(fn, machine), machine, { buffers, scalars, ...range });
      expect(firstDifference(fn, expected, actual), `seed ${seed}`).toBeUndefined();
    }
  });
});
