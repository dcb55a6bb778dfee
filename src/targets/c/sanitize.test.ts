/** Runs generated C under the sanitizers of the compiler: no access out of bounds, no undefined behaviour, no race. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { randomFunction } from '../../loops/testing.ts';
import { detectCpu } from '../cpu.ts';
import { findCompilers } from './compile.ts';
import { emitC } from './emit.ts';
import { buildHarness, harnessDifferences, run } from './harness.ts';
import { runnableMachines } from './machines.ts';
import { KERNELS_INFO, kernelsOnly, legalVariant, MIXER_INFO, mixer, withFolder } from './testing.ts';

const machines = runnableMachines(await detectCpu());
const command = (await findCompilers())[0]?.command;

const flags = (sanitize: string) => ['-O1', '-g', `-fsanitize=${sanitize}`, '-fno-sanitize-recover=all'];

/** Whether programs with these sanitizers can be made and run here. */
async function works(sanitize: string): Promise<boolean> {
  if (command === undefined) return false;
  return withFolder(async (folder) => {
    try {
      const source = emitC(
        machines.map((m) => kernelsOnly(m, [])),
        KERNELS_INFO,
      );
      const program = await buildHarness(folder, source, command, flags(sanitize));
      return (await harnessDifferences(folder, [program], 'scalar', [])).length === 0;
    } catch {
      return false;
    }
  });
}

const addresses = await works('address,undefined');
const threads = await works('thread');
const skipped = (there: boolean) => (there ? '' : ' (skipped: the compiler has no such sanitizer here)');

describe('generated C', () => {
  test.skipIf(!addresses)(`stays in bounds and is well defined${skipped(addresses)}`, () =>
    withFolder(async (folder) => {
      const cases = Array.from({ length: 3 }, (_, i) => randomFunction(300 + i));
      const functions = cases.map((c) => c.fn);
      const source = emitC(
        machines.map((machine) => kernelsOnly(machine, functions)),
        KERNELS_INFO,
      );
      const program = await buildHarness(folder, source, command!, flags('address,undefined'));
      for (const { isa } of machines) {
        expect(await harnessDifferences(folder, [program], isa, cases)).toEqual([]);
      }
    }),
  );

  test.skipIf(!threads)(`has no races between its threads${skipped(threads)}`, () =>
    withFolder(async (folder) => {
      const source = emitC(
        machines.map((machine) => legalVariant(machine, mixer(2, 1))),
        MIXER_INFO,
      );
      const program = await buildHarness(folder, source, command!, flags('thread'));
      const weights = join(folder, 'weights');
      await writeFile(weights, new Uint8Array(MIXER_INFO.weightsBytes));
      await run(program, ['steps', machines[0]!.isa, '3', '50', weights]);
    }),
  );
});
