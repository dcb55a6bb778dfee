/** Runs generated C under the sanitizers of the compiler: no access out of bounds, no undefined behaviour, no race. */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { runFunction } from '../../loops/interpret.ts';
import { copyBuffers, firstDifference, type RandomCase, randomFunction } from '../../loops/testing.ts';
import { threadLoop } from '../../loops/thread.ts';
import { detectCpu } from '../cpu.ts';
import { findCompilers } from './compile.ts';
import { EXACT_FLAGS, emitC } from './emit.ts';
import { runnableMachines } from './machines.ts';
import {
  KERNELS_INFO,
  kernelsOnly,
  legalVariant,
  MIXER_INFO,
  mixer,
  withFolder,
  writeSource,
} from './testing.ts';

const run = promisify(execFile);
const HARNESS = fileURLToPath(new URL('../../../test/c/harness.c', import.meta.url));
const machines = runnableMachines(await detectCpu());
const command = (await findCompilers())[0]?.command;

/** Compiles a model and the harness into a program. */
async function buildHarness(folder: string, source: string, sanitize: string): Promise<string> {
  const model = await writeSource(folder, source);
  const program = join(folder, 'harness');
  const [cc, ...before] = command!;
  const flags = [
    ...before,
    ...EXACT_FLAGS,
    '-O1',
    '-g',
    `-fsanitize=${sanitize}`,
    '-fno-sanitize-recover=all',
  ];
  await run(cc!, [...flags, '-pthread', `-DMODEL="${model}"`, '-o', program, HARNESS, '-lm']);
  return program;
}

/** Whether programs with these sanitizers can be made and run here. */
async function works(sanitize: string): Promise<boolean> {
  if (command === undefined) return false;
  return withFolder(async (folder) => {
    try {
      const source = emitC(
        machines.map((m) => kernelsOnly(m, [])),
        KERNELS_INFO,
      );
      const program = await buildHarness(folder, source, sanitize);
      await writeFile(join(folder, 'in'), int32(0));
      await run(program, ['kernels', 'scalar', join(folder, 'in'), join(folder, 'out')]);
      return true;
    } catch {
      return false;
    }
  });
}

function int32(...values: number[]): Uint8Array {
  return new Uint8Array(Int32Array.from(values).buffer);
}

/** A case as the harness reads it: name, range, scalars as doubles, buffers; each with its length before it. */
function encodeCase({ fn, buffers, scalars }: RandomCase): Uint8Array[] {
  const name = new TextEncoder().encode(fn.name);
  return [
    int32(name.length),
    name,
    int32(0, scalars[0]!, scalars.length, buffers.length),
    new Uint8Array(Float64Array.from(scalars).buffer),
    ...buffers.flatMap((b) => [int32(b.length), b]),
  ];
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
      const program = await buildHarness(folder, source, 'address,undefined');
      const [input, output] = [join(folder, 'in'), join(folder, 'out')];
      await writeFile(input, Buffer.concat([int32(cases.length), ...cases.flatMap(encodeCase)]));
      for (const { isa } of machines) {
        await run(program, ['kernels', isa, input, output]);
        const results = await readFile(output);
        let at = 0;
        for (const { fn, buffers, scalars } of cases) {
          const expected = copyBuffers(buffers);
          const args = { buffers: expected, scalars };
          const range = { begin: 0, end: scalars[0]! };
          runFunction(fn, threadLoop(fn) === undefined ? args : { ...args, range });
          const got = buffers.map((b) => {
            at += b.length;
            return results.subarray(at - b.length, at);
          });
          expect(firstDifference(fn, expected, got)).toBeUndefined();
        }
      }
    }),
  );

  test.skipIf(!threads)(`has no races between its threads${skipped(threads)}`, () =>
    withFolder(async (folder) => {
      const source = emitC(
        machines.map((machine) => legalVariant(machine, mixer(2, 1))),
        MIXER_INFO,
      );
      const program = await buildHarness(folder, source, 'thread');
      const weights = join(folder, 'weights');
      await writeFile(weights, new Uint8Array(MIXER_INFO.weightsBytes));
      await run(program, ['steps', machines[0]!.isa, '3', '50', weights]);
    }),
  );
});
