/** For tests: programs of kernels alone, compiled and loaded. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS, type Program } from '../../loops/ir.ts';
import { legalize } from '../../loops/legalize.ts';
import type { MemoryNeeds } from '../executable.ts';
import type { CModelInfo, CVariant } from './emit.ts';
import type { CMachine } from './machines.ts';

const NO_STEP: LoopFunction = {
  name: 'main',
  buffers: MAIN_BUFFERS,
  scalars: MAIN_SCALARS,
  locals: [],
  body: [],
};

/** A variant of kernels that nothing but `callKernel` calls. */
export function kernelsOnly(machine: CMachine, functions: readonly LoopFunction[]): CVariant {
  return legalVariant(machine, { functions, main: NO_STEP });
}

export function legalVariant(machine: CMachine, program: Program): CVariant {
  return {
    machine,
    program: { ...program, functions: program.functions.map((fn) => legalize(fn, machine)) },
  };
}

export const NO_NEEDS: MemoryNeeds = { arenaBytes: 0, cacheBytes: 0, vocab: 1, logitsStride: 16 };

export const KERNELS_INFO: CModelInfo = { name: 'kernels', needs: NO_NEEDS, weightsBytes: 0 };

/** A folder for the time of a test. */
export async function withFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'lutra-c-'));
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

export async function writeSource(folder: string, source: string): Promise<string> {
  const path = join(folder, 'model.c');
  await writeFile(path, source);
  return path;
}
