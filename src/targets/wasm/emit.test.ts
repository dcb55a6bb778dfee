import { describe, expect, test } from 'vitest';
import { runFunction } from '../../loops/interpret.ts';
import { legalize } from '../../loops/legalize.ts';
import { copyBuffers, firstDifference, randomFunction } from '../../loops/testing.ts';
import { threadLoop } from '../../loops/thread.ts';
import { nodePlatform } from '../../platform/node.ts';
import { detectWasmMachines } from './machines.ts';
import { runWasm } from './testing.ts';

describe.each(detectWasmMachines(nodePlatform))('$name', (machine) => {
  const compareFrom = (first: number, end: number) => {
    for (let seed = first; seed < end; seed++) {
      const { fn, buffers, scalars } = randomFunction(seed);
      const expected = copyBuffers(buffers);
      const range = threadLoop(fn) === undefined ? {} : { range: { begin: 0, end: scalars[0]! } };
      runFunction(fn, { buffers: expected, scalars, ...range });
      const actual = runWasm(legalize(fn, machine), machine, { buffers, scalars, ...range });
      expect(firstDifference(fn, expected, actual), `seed ${seed}`).toBeUndefined();
    }
  };

  test('random functions give the bits of the interpreter', () => compareFrom(0, 40));

  test('also where the engine optimizes all it can', () =>
    nodePlatform.optimizing(async () => compareFrom(40, 80)));
});
