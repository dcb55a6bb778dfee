/**
 * Kernels and the embedded model on every target, against the interpreter and against each other: integer
 * results bit for bit on random shapes. AVX-512 VNNI and AVX-VNNI code runs where the CPU has them, and
 * otherwise through SIMDe's portable intrinsics.
 */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/api/compile.ts';
import { generateC } from '../src/artifact/build.ts';
import { WEIGHTS_FILE } from '../src/artifact/manifest.ts';
import { type Artifact, openArtifact } from '../src/artifact/open.ts';
import { runSteps } from '../src/artifact/self-test.ts';
import { threadIterations } from '../src/loops/interpret.ts';
import { legalize } from '../src/loops/legalize.ts';
import { nodePlatform } from '../src/platform/node.ts';
import { detectHost } from '../src/runtime/load.ts';
import { startExecutable } from '../src/runtime/start.ts';
import { candidates } from '../src/runtime/targets.ts';
import { type Compiler, compileC, findCompilers } from '../src/targets/c/compile.ts';
import { emitC } from '../src/targets/c/emit.ts';
import { loadNative } from '../src/targets/c/executable.ts';
import { C_MACHINES, machinesFor, runnableMachines } from '../src/targets/c/machines.ts';
import { KERNELS_INFO, kernelsOnly, NO_NEEDS } from '../src/targets/c/testing.ts';
import type { Executable } from '../src/targets/executable.ts';
import { emitWasm } from '../src/targets/wasm/emit.ts';
import { createWasmExecutable } from '../src/targets/wasm/executable.ts';
import { detectWasmMachines } from '../src/targets/wasm/machines.ts';
import { kernelProgram } from '../src/targets/wasm/testing.ts';
import { KERNEL_CASES as CASES, isRight, type KernelTestCase } from './support/kernel-cases.ts';

const host = await detectHost();
const [compiler] = await findCompilers();
const emulation = ['/usr/include', '/usr/local/include', '/opt/homebrew/include'].some((folder) =>
  existsSync(join(folder, 'simde/x86/avx512.h')),
);

/** The compiler, with AVX-512 and AVX-VNNI intrinsics in portable C. */
function emulating(c: Compiler): Compiler {
  const header = resolve('test/c/emulate.h');
  return { ...c, command: [...c.command, `-DLUTRA_EMULATE="${header}"`, '-Wno-psabi'] };
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lutra-targets-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function compileSource(name: string, source: string, c: Compiler): Promise<string> {
  await mkdir(join(folder, name));
  const path = join(folder, name, 'model.c');
  const library = join(folder, name, 'model.so');
  await writeFile(path, source);
  await compileC({ compiler: c, source: path, output: library });
  return library;
}

/** Runs all cases; the names of kernels whose results differ from the interpreter's. */
async function differing(executable: Executable, cases = CASES): Promise<readonly string[]> {
  const wrong: string[] = [];
  for (const test of cases) {
    const { name: kernel, build, buffers, scalars } = test;
    const got = buffers.map((b) => b.slice());
    const range = wholeRange(executable, build, scalars);
    await executable.callKernel({ kernel, buffers: got, scalars, ...range });
    if (!isRight(test, got)) wrong.push(kernel);
  }
  return wrong;
}

/** All iterations of the kernel's thread loop, in the grain of the executable's machine. */
function wholeRange(executable: Executable, build: KernelTestCase['build'], scalars: readonly number[]) {
  const machine = [...C_MACHINES, ...host.wasm].find(({ name }) => name === executable.target)!;
  return { begin: 0, end: threadIterations(build(machine), scalars) };
}

describe('integer kernels on random shapes give the bits of the interpreter', () => {
  it.each(detectWasmMachines(nodePlatform).map((machine) => [machine.name, machine] as const))(
    '%s',
    async (_, machine) => {
      const functions = CASES.map(({ build }) => legalize(build(machine), machine));
      const executable = await createWasmExecutable({
        module: emitWasm(kernelProgram(...functions), machine, { shared: true }),
        target: machine.name,
        needs: NO_NEEDS,
        weights: { bytes: 0, read: async () => undefined },
        threads: 1,
        platform: nodePlatform,
      });
      try {
        expect(await differing(executable)).toEqual([]);
      } finally {
        await executable.close();
      }
    },
  );

  const native = runnableMachines(host.cpu);
  // With and without VBMI, code differs in nothing but tables; the whole model runs without.
  const wide = machinesFor('x64').filter(
    (machine) => !native.includes(machine) && machine.isa !== 'avx512vnni',
  );
  const forms = [{ name: 'on this CPU', machines: native, using: (c: Compiler) => c, cases: CASES }];
  if (emulation && wide.length > 0) {
    // Portable intrinsics take a minute to compile: of every kind of case, a third is left out.
    const cases = CASES.filter((_, i) => i % 3 !== 2);
    forms.push({ name: 'emulated', machines: [...wide, C_MACHINES.at(-1)!], using: emulating, cases });
  }
  it.skipIf(compiler === undefined).each(forms)('C, $name', async ({ name, machines, using, cases }) => {
    const source = emitC(
      machines.map((machine) =>
        kernelsOnly(
          machine,
          cases.map(({ build }) => build(machine)),
        ),
      ),
      KERNELS_INFO,
    );
    const library = await compileSource(`kernels-${name}`, source, using(compiler!));
    for (const { name: machine } of machines) {
      const executable = await loadNative({ library, machine, needs: NO_NEEDS, threads: 1 });
      expect(await differing(executable, cases), machine).toEqual([]);
      await executable.close();
    }
  });
});

describe('the embedded model', () => {
  let artifact: Artifact;
  let expected: string;
  const steps = [[1019, 1021, 266, 1022, 265, 318, 284, 220, 19, 314], [220], [16]];

  beforeAll(async () => {
    const output = join(folder, 'model');
    artifact = await openArtifact(
      await compile('models/tiny-bitnet', { output, target: 'wasm', context: 64 }),
    );
    const { path, manifest } = artifact;
    const [candidate] = candidates('wasm', manifest.code, host);
    const executable = await startExecutable(
      { path, needs: manifest.needs, code: manifest.code },
      candidate!,
      1,
    );
    expected = await runSteps(executable, steps);
    await executable.close();
  });

  const wide = machinesFor('x64').filter((machine) => /vnni/.test(machine.isa));
  const why = emulation ? '' : ' (skipped: SIMDe is not installed; Debian has it as libsimde-dev)';
  it.skipIf(compiler === undefined || !emulation)(
    `gives the same bits on emulated ${wide.map((m) => m.name).join(' and ')}${why}`,
    async () => {
      const { manifest, path, plan } = artifact;
      const machines = [...wide.map((m) => m.name), 'c:scalar'];
      const library = await compileSource('model-emulated', generateC(plan, machines), emulating(compiler!));
      for (const machine of machines) {
        const weights = join(path, WEIGHTS_FILE);
        const executable = await loadNative({ library, weights, machine, needs: manifest.needs, threads: 2 });
        expect(await runSteps(executable, steps), machine).toBe(expected);
        await executable.close();
      }
    },
  );
});
