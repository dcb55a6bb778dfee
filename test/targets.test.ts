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
import { randomUniform } from '../src/common/random.ts';
import { packI2 } from '../src/encodings/ternary-i2.ts';
import { packT5b } from '../src/encodings/ternary-t5b.ts';
import { rowStride } from '../src/kernels/kernel.ts';
import { lowbitMatmul } from '../src/kernels/lowbit-matmul.ts';
import { quantize } from '../src/kernels/quantize.ts';
import { bytesOf, randomFloats, randomInts } from '../src/kernels/testing.ts';
import { runFunction, threadIterations } from '../src/loops/interpret.ts';
import type { LoopFunction } from '../src/loops/ir.ts';
import { legalize } from '../src/loops/legalize.ts';
import type { Machine } from '../src/loops/machine.ts';
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

/** One kernel on one input: what `callKernel` and the interpreter take. */
interface Case {
  readonly build: (machine: Machine) => LoopFunction;
  readonly buffers: readonly Uint8Array[];
  readonly scalars: readonly number[];
}

function matmulCase(i: number): Case {
  const random = randomUniform(100 + i);
  const between = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  const [m, k] = [between(1, 150), between(1, 400)];
  const n = i % 2 === 0 ? 1 : between(2, 19);
  const residual = random() < 0.5;
  const encoding = i % 8 < 4 ? 'i2' : 't5b';
  const shape = { m, k, residual, batch: n === 1 ? 'one' : 'many', encoding } as const;
  const trits = Int8Array.from(randomInts(i + 1, m * k, -1, 1));
  const q = new Int8Array(n * rowStride(k));
  for (let r = 0; r < n; r++) q.set(randomInts(i * 31 + r, k, -128, 127), r * rowStride(k));
  const sum = Int32Array.from({ length: n }, (_, r) =>
    q.subarray(r * rowStride(k), (r + 1) * rowStride(k)).reduce((a, b) => a + b, 0),
  );
  const out = new Float32Array(n * rowStride(m));
  const pack = encoding === 'i2' ? packI2 : packT5b;
  const weight = pack({ kind: 'ternary', rows: m, cols: k, blocks: [{ form: 'trits', rows: m, trits }] });
  const inputs = [
    bytesOf(q),
    bytesOf(randomFloats(i, n)),
    bytesOf(sum),
    weight,
    bytesOf(randomFloats(i, rowStride(m))),
  ];
  return {
    build: (machine) =>
      lowbitMatmul.build(`matmul_${i}`, shape, lowbitMatmul.defaultSchedule(shape, machine)),
    buffers: [...inputs, ...(residual ? [bytesOf(randomFloats(i + 7, out.length))] : []), bytesOf(out)],
    scalars: [n],
  };
}

function quantizeCase(i: number): Case {
  const random = randomUniform(500 + i);
  const k = 1 + Math.floor(random() * 400);
  const n = 1 + Math.floor(random() * 5);
  const stride = rowStride(k);
  return {
    build: (machine) => quantize.build(`quantize_${i}`, { k }, quantize.defaultSchedule({ k }, machine)),
    buffers: [
      bytesOf(randomFloats(i, n * stride)),
      new Uint8Array(n * stride),
      new Uint8Array(4 * n),
      new Uint8Array(4 * n),
    ],
    scalars: [n],
  };
}

const CASES = Array.from({ length: 24 }, (_, i) => (i % 4 === 3 ? quantizeCase(i) : matmulCase(i)));

/** Runs all cases; the names of kernels whose results differ from the interpreter's. */
async function differing(executable: Executable): Promise<readonly string[]> {
  const wrong: string[] = [];
  const plainest = C_MACHINES.at(-1)!;
  for (const { build, buffers, scalars } of CASES) {
    const fn = build(plainest);
    const [expected, got] = [buffers.map((b) => b.slice()), buffers.map((b) => b.slice())];
    runFunction(fn, { buffers: expected, scalars });
    const range = wholeRange(executable, build, scalars);
    await executable.callKernel({ kernel: fn.name, buffers: got, scalars, ...range });
    if (!expected.every((bytes, i) => Buffer.compare(bytes, got[i]!) === 0)) wrong.push(fn.name);
  }
  return wrong;
}

/** All iterations of the kernel's thread loop, in the grain of the executable's machine. */
function wholeRange(executable: Executable, build: Case['build'], scalars: readonly number[]) {
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
  const forms = [{ name: 'on this CPU', machines: native, using: (c: Compiler) => c }];
  if (emulation && wide.length > 0) {
    forms.push({ name: 'emulated', machines: [...wide, C_MACHINES.at(-1)!], using: emulating });
  }
  it.skipIf(compiler === undefined).each(forms)('C, $name', async ({ name, machines, using }) => {
    const source = emitC(
      machines.map((machine) =>
        kernelsOnly(
          machine,
          CASES.map(({ build }) => build(machine)),
        ),
      ),
      KERNELS_INFO,
    );
    const library = await compileSource(`kernels-${name}`, source, using(compiler!));
    for (const { name: machine } of machines) {
      const executable = await loadNative({ library, machine, needs: NO_NEEDS, threads: 1 });
      expect(await differing(executable), machine).toEqual([]);
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
    300_000,
  );
});
