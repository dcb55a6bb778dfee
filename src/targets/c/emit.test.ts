import { join } from 'node:path';
import { expect, test } from 'vitest';
import { runFunction } from '../../loops/interpret.ts';
import { copyBuffers, firstDifference, randomFunction } from '../../loops/testing.ts';
import { threadLoop } from '../../loops/thread.ts';
import { detectCpu } from '../cpu.ts';
import { compileC, findCompilers } from './compile.ts';
import { emitC } from './emit.ts';
import { loadNative } from './executable.ts';
import { C_MACHINES, runnableMachines } from './machines.ts';
import { KERNELS_INFO, kernelsOnly, NO_NEEDS, withFolder, writeSource } from './testing.ts';

const COUNT = Number(process.env.COUNT ?? 60);
const START = Number(process.env.START ?? 0);
const cpu = await detectCpu();
const compilers = await findCompilers();

for (const compiler of compilers.filter(
  (c, i) => compilers.findIndex((d) => d.version === c.version) === i,
)) {
  test(`random functions give the interpreter's bits (${compiler.version})`, () =>
    withFolder(async (folder) => {
      const cases = Array.from({ length: COUNT }, (_, i) => randomFunction(START + i));
      const functions = cases.map((c) => c.fn);
      const source = emitC(
        C_MACHINES.filter((m) => (process.env.ISA ?? 'avx2,scalar').includes(m.isa)).map((machine) =>
          kernelsOnly(machine, functions),
        ),
        KERNELS_INFO,
      );
      const library = join(folder, 'model.so');
      const path = await writeSource(folder, source);
      if (process.env.KEEP) await (await import('node:fs/promises')).copyFile(path, '/tmp/random.c');
      await compileC({ compiler, source: path, output: library });
      const failures: string[] = [];
      for (const machine of runnableMachines(cpu)) {
        const executable = await loadNative({ library, machine: machine.name, needs: NO_NEEDS, threads: 1 });
        for (const { fn, buffers, scalars } of cases) {
          const [expected, got] = [copyBuffers(buffers), copyBuffers(buffers)];
          const range = { begin: 0, end: scalars[0]! };
          runFunction(fn, { buffers: expected, scalars, ...(threadLoop(fn) === undefined ? {} : { range }) });
          await executable.callKernel({ kernel: fn.name, buffers: got, scalars, ...range });
          const difference = firstDifference(fn, expected, got);
          if (difference !== undefined) failures.push(`${machine.name} ${fn.name}: ${difference}`);
        }
        await executable.close();
      }
      expect(failures).toEqual([]);
    }));
}
