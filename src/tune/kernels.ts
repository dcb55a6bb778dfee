/** Kernels compiled by themselves, without a model, to be tested and timed. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import { LINE, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS, type Program } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { nodePlatform } from '../platform/node.ts';
import { compileC, findCompiler } from '../targets/c/compile.ts';
import { emitC } from '../targets/c/emit.ts';
import { loadNative } from '../targets/c/executable.ts';
import { allocateAligned } from '../targets/c/library.ts';
import { C_MACHINES, type CMachine } from '../targets/c/machines.ts';
import { emitWasm } from '../targets/wasm/emit.ts';
import { engine } from '../targets/wasm/engine.ts';
import { WASM_MACHINES, type WasmMachine } from '../targets/wasm/machines.ts';

export interface CompiledKernels {
  /** Memory of these sizes that kernels can work on, each at a multiple of 64 bytes; what was given out before ends. */
  allocate(sizes: readonly number[]): readonly Uint8Array[];
  /** Runs the first `end` iterations of a kernel's thread loop, on one thread. */
  run(kernel: string, buffers: readonly Uint8Array[], scalars: readonly number[], end: number): Promise<void>;
  close(): Promise<void>;
}

const program = (functions: readonly LoopFunction[]): Program => ({
  functions,
  main: { name: 'main', buffers: MAIN_BUFFERS, scalars: MAIN_SCALARS, locals: [], body: [] },
});

async function compileNative(
  machine: CMachine,
  functions: readonly LoopFunction[],
): Promise<CompiledKernels> {
  const folder = await mkdtemp(join(tmpdir(), 'lutra-tune-'));
  try {
    const source = join(folder, 'kernels.c');
    const library = join(folder, 'kernels.so');
    const plainest = C_MACHINES.at(-1)!;
    const needs = { arenaBytes: 0, cacheBytes: 0, vocab: 1, logitsStride: LINE / 4 };
    const variants = [
      { machine, program: program(functions) },
      ...(machine === plainest ? [] : [{ machine: plainest, program: program([]) }]),
    ];
    await writeFile(source, emitC(variants, { name: 'kernels', needs, weightsBytes: 0 }));
    await compileC({ compiler: await findCompiler(), source, output: library });
    const aligned = await allocateAligned();
    const executable = await loadNative({ library, machine: machine.name, needs, threads: 1 });
    return {
      allocate: (sizes) => sizes.map(aligned),
      run: (kernel, buffers, scalars, end) =>
        executable.callKernel({ kernel, buffers, scalars, begin: 0, end }),
      close: () => executable.close(),
    };
  } finally {
    // A loaded library stays usable without its file.
    await rm(folder, { recursive: true, force: true });
  }
}

const PAGE = 1 << 16;
/** Scratch memory of the kernels comes first. */
const SCRATCH_AT = 1 << 20;
const MEMORY_AT = 32 << 20;

async function compileWasm(
  machine: WasmMachine,
  functions: readonly LoopFunction[],
): Promise<CompiledKernels> {
  nodePlatform.unlockEngine();
  // The optimizing compiler at once: what is timed must not be code that is replaced in between.
  setFlagsFromString('--no-liftoff');
  const memory = new engine.Memory({ initial: MEMORY_AT / PAGE, maximum: 65536, shared: false });
  const module = await engine.compile(emitWasm(program(functions), machine, { shared: false }));
  const { exports } = new engine.Instance(module, { env: { memory, scratch: SCRATCH_AT } });
  return {
    allocate(sizes) {
      let end = MEMORY_AT;
      const starts = sizes.map((bytes) => {
        const at = end;
        end = alignUp(at + bytes, LINE);
        return at;
      });
      const missing = end - memory.buffer.byteLength;
      if (missing > 0) memory.grow(Math.ceil(missing / PAGE));
      return sizes.map((bytes, i) => new Uint8Array(memory.buffer, starts[i]!, bytes));
    },
    async run(kernel, buffers, scalars, end) {
      exports[kernel]!(...buffers.map((b) => b.byteOffset), ...scalars, 0, end);
    },
    close: async () => {},
  };
}

/** The machine of this name. Throws `usage` when there is none. */
export function machineNamed(name: string): Machine {
  const found = [...C_MACHINES, ...WASM_MACHINES].find((machine) => machine.name === name);
  if (found === undefined) throw new LutraError('usage', `no machine is called ${name}`);
  return found;
}

/**
 * Compiles legal kernels for a machine that this processor or engine can be. Throws `environment` when no
 * compiler is found or the processor lacks the instructions.
 */
export async function compileKernels(
  name: string,
  functions: readonly LoopFunction[],
): Promise<CompiledKernels> {
  const native = C_MACHINES.find((machine) => machine.name === name);
  if (native !== undefined) return compileNative(native, functions);
  const wasm = WASM_MACHINES.find((machine) => machine.name === name);
  if (wasm !== undefined) return compileWasm(wasm, functions);
  throw new LutraError('usage', `no machine is called ${name}`);
}
