/** Kernels as they are scheduled for 64-bit ARM, on emulated processors: the bits of the interpreter. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { threadIterations } from '../src/loops/interpret.ts';
import { ARM_HINT, armCompilers, emulator, programFlags } from '../src/targets/c/cross-testing.ts';
import { emitC } from '../src/targets/c/emit.ts';
import { buildHarness, runHarness } from '../src/targets/c/harness.ts';
import { machinesFor } from '../src/targets/c/machines.ts';
import { KERNELS_INFO, kernelsOnly } from '../src/targets/c/testing.ts';
import { isRight, KERNEL_CASES } from './support/kernel-cases.ts';

const [compiler] = await armCompilers();
const note = compiler === undefined ? ` (${ARM_HINT})` : '';

it.skipIf(compiler === undefined)(`integer kernels on random shapes, 64-bit ARM${note}`, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'lutra-arm-'));
  try {
    const machines = machinesFor('arm64');
    const variants = machines.map((machine) =>
      kernelsOnly(
        machine,
        KERNEL_CASES.map(({ build }) => build(machine)),
      ),
    );
    const source = emitC(variants, KERNELS_INFO);
    const program = await buildHarness(folder, source, compiler!.command, programFlags(compiler!));
    for (const machine of machines) {
      const calls = KERNEL_CASES.map(({ name, build, buffers, scalars }) => ({
        kernel: name,
        buffers,
        scalars,
        begin: 0,
        end: threadIterations(build(machine), scalars),
      }));
      const results = await runHarness(folder, [...emulator('max'), program], machine.isa, calls);
      const wrong = KERNEL_CASES.filter((test, i) => !isRight(test, results[i]!));
      expect(
        wrong.map(({ name }) => name),
        machine.name,
      ).toEqual([]);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
