/** For tests: generated C as a program of its own (test/c/harness.c), under sanitizers or on other processors. */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { runFunction } from '../../loops/interpret.ts';
import { copyBuffers, firstDifference, type RandomCase } from '../../loops/testing.ts';
import { threadLoop } from '../../loops/thread.ts';
import type { KernelCall } from '../executable.ts';
import { EXACT_FLAGS } from './emit.ts';
import { writeSource } from './testing.ts';

export const run = promisify(execFile);
const HARNESS = fileURLToPath(new URL('../../../test/c/harness.c', import.meta.url));

/** Compiles a model and the harness into a program. */
export async function buildHarness(
  folder: string,
  source: string,
  command: readonly string[],
  flags: readonly string[],
): Promise<string> {
  const model = await writeSource(folder, source);
  const program = join(folder, 'harness');
  const [cc, ...before] = command;
  const args = [...before, ...EXACT_FLAGS, ...flags, '-pthread', `-DMODEL="${model}"`];
  await run(cc!, [...args, '-o', program, HARNESS, '-lm']);
  return program;
}

function int32(...values: number[]): Uint8Array {
  return new Uint8Array(Int32Array.from(values).buffer);
}

/** The iterations of the thread loop, which these functions take from their first scalar; 1 without a loop. */
function extent({ scalars }: RandomCase): number {
  return scalars[0] ?? 1;
}

/** A call as the harness reads it: name, range, scalars as doubles, buffers; each with its length before it. */
function encodeCall({ kernel, buffers, scalars, begin, end }: KernelCall): Uint8Array[] {
  const name = new TextEncoder().encode(kernel);
  return [
    int32(name.length),
    name,
    int32(begin, end, scalars.length, buffers.length),
    new Uint8Array(Float64Array.from(scalars).buffer),
    ...buffers.flatMap((b) => [int32(b.length), b]),
  ];
}

/** Runs kernels in the harness, which `command` starts; the buffers of each call afterwards. */
export async function runHarness(
  folder: string,
  command: readonly string[],
  variant: string,
  calls: readonly KernelCall[],
): Promise<readonly (readonly Uint8Array[])[]> {
  const [input, output] = [join(folder, 'in'), join(folder, 'out')];
  await writeFile(input, Buffer.concat([int32(calls.length), ...calls.flatMap(encodeCall)]));
  const [program, ...before] = command;
  await run(program!, [...before, 'kernels', variant, input, output]);
  const results = await readFile(output);
  let at = 0;
  return calls.map(({ buffers }) =>
    buffers.map((b) => {
      at += b.length;
      return results.subarray(at - b.length, at);
    }),
  );
}

/** Runs all cases in the harness, which `command` starts; what of them differs from the interpreter. */
export async function harnessDifferences(
  folder: string,
  command: readonly string[],
  variant: string,
  cases: readonly RandomCase[],
): Promise<readonly string[]> {
  const calls = cases.map((c) => ({ ...c, kernel: c.fn.name, begin: 0, end: extent(c) }));
  const results = await runHarness(folder, command, variant, calls);
  return cases.flatMap((c, i) => {
    const { fn, buffers, scalars } = c;
    const expected = copyBuffers(buffers);
    const args = { buffers: expected, scalars };
    const range = { begin: 0, end: extent(c) };
    runFunction(fn, threadLoop(fn) === undefined ? args : { ...args, range });
    const difference = firstDifference(fn, expected, results[i]!);
    return difference === undefined ? [] : [`${variant}: ${fn.name}: ${difference}`];
  });
}
