import { describe, expect, test } from 'vitest';
import { randomFunction } from '../../loops/testing.ts';
import { ARM_HINT, armCompilers, armDifferences, emulator, programFlags } from './cross-testing.ts';
import { emitC } from './emit.ts';
import { buildHarness, harnessDifferences } from './harness.ts';
import { findMachine, machinesFor } from './machines.ts';
import { floatCases, integerCases } from './operator-cases.ts';
import { KERNELS_INFO, kernelsOnly, strict, withFolder } from './testing.ts';

const compilers = await armCompilers();
const compiler = compilers[0];
const note = compiler === undefined ? ` (${ARM_HINT})` : '';

/** The least processors that run each variant. */
const PROCESSORS = [
  { machine: findMachine('c:scalar')!, cpu: 'cortex-a53' },
  { machine: findMachine('c:neon')!, cpu: 'cortex-a53' },
  { machine: findMachine('c:dotprod')!, cpu: 'cortex-a76' },
  { machine: findMachine('c:i8mm')!, cpu: 'max' },
];

const randomCases = (first: number, count: number) =>
  Array.from({ length: count }, (_, i) => randomFunction(first + i));

describe.skipIf(compiler === undefined)(`on emulated 64-bit ARM processors${note}`, () => {
  test.each(compilers)('random functions give the bits of the interpreter: $version', async (c) => {
    expect(await armDifferences(randomCases(500, 3), PROCESSORS, c)).toEqual([]);
  });

  test('every operator on extreme values', async () => {
    const [scalar, ...vectors] = PROCESSORS;
    const operators = (...widths: number[]) => [...floatCases(widths), ...integerCases(widths)];
    expect(await armDifferences(operators(1), [scalar!], compiler!)).toEqual([]);
    expect(await armDifferences(operators(4, 16), vectors, compiler!)).toEqual([]);
  });

  test('a processor without the instructions of a variant is not given it', () =>
    withFolder(async (folder) => {
      const variants = machinesFor('arm64').map((machine) => kernelsOnly(machine, []));
      const source = emitC(variants, KERNELS_INFO);
      const program = await buildHarness(folder, source, strict(compiler!).command, programFlags(compiler!));
      const on = (cpu: string, variant: string) =>
        harnessDifferences(folder, [...emulator(cpu), program], variant, []);
      await expect(on('cortex-a53', 'dotprod')).rejects.toThrow(/this processor cannot run dotprod/);
      await expect(on('cortex-a76', 'i8mm')).rejects.toThrow(/this processor cannot run i8mm/);
      expect(await on('cortex-a76', 'dotprod')).toEqual([]);
    }));
});

test('a file is for one architecture', () => {
  const variants = ['c:avx2', 'c:neon', 'c:scalar'].map((name) => kernelsOnly(findMachine(name)!, []));
  expect(() => emitC(variants, KERNELS_INFO)).toThrow(/one architecture, not x64 and arm64/);
});
