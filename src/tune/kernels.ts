/** Kernels compiled by themselves, without a model, to be tested and timed. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import { LINE, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS, type Program } from '../loops/ir.ts';
import { legalize } from '../loops/legalize.ts';
import type { Machine } from '../loops/machine.ts';
import { nodePlatform } from '../platform/node.ts';
import { compileC, findCompiler } from '../targets/c/compile.ts';
import { emitC } from '../targets/c/emit.ts';
import { loadNative } from '../targets/c/executable.ts';
import { allocateAligned } from '../targets/c/library.ts';
import { C_MACHINES, type CMachine } from '../targets/c/machines.ts';
import type { Executable } from '../targets/executable.ts';
import { emitWasm } from '../targets/wasm/emit.ts';
import { engine } from '../targets/wasm/engine.ts';
import { WASM_MACHINES, type WasmMachine } from '../targets/wasm/machines.ts';
import { type TeamKernel, teamMain } from './team.ts';

export interface CompiledKernels {
  /** Memory of these sizes that kernels can work on, each at a multiple of 64 bytes; what was given out before ends. */
  allocate(sizes: readonly number[]): readonly Uint8Array[];
  /** Runs the first `end` iterations of a kernel's thread loop, on one thread. */
  run(kernel: string, buffers: readonly Uint8Array[], scalars: readonly number[], end: number): Promise<void>;
  close(): Promise<void>;
}

const NO_MAIN: LoopFunction = {
  name: 'main',
  buffers: MAIN_BUFFERS,
  scalars: MAIN_SCALARS,
  locals: [],
  body: [],
};

const program = (functions: readonly LoopFunction[]): Program => ({ functions, main: NO_MAIN });

/** A library of kernels, with a `main` of its own for one machine, and the memory that this needs. */
interface NativeParts extends Program {
  readonly threads: number;
  readonly weights?: Uint8Array;
  readonly arenaBytes: number;
}

async function loadLibrary(machine: CMachine, parts: NativeParts): Promise<Executable> {
  const folder = await mkdtemp(join(tmpdir(), 'lutra-tune-'));
  try {
    const source = join(folder, 'kernels.c');
    const library = join(folder, 'kernels.so');
    const plainest = C_MACHINES.at(-1)!;
    const { functions, main, arenaBytes, threads, weights } = parts;
    const needs = { arenaBytes, cacheBytes: 0, vocab: 1, logitsStride: LINE / 4 };
    const variants = [
      { machine, program: { functions, main } },
      ...(machine === plainest ? [] : [{ machine: plainest, program: program([]) }]),
    ];
    const weightsBytes = weights?.length ?? 0;
    await writeFile(source, emitC(variants, { name: 'kernels', needs, weightsBytes }));
    await compileC({ compiler: await findCompiler(), source, output: library });
    const request = { library, machine: machine.name, needs, threads };
    if (weights === undefined) return await loadNative(request);
    const file = join(folder, 'weights.bin');
    await writeFile(file, weights);
    return await loadNative({ ...request, weights: file });
  } finally {
    // A loaded library stays usable without its file, and so do the weights.
    await rm(folder, { recursive: true, force: true });
  }
}

/** Several contenders, each one kernel or more, on a team of threads. */
export interface Team {
  /** Seconds of a call of a contender, of at least `seconds` in all. */
  secondsOfCall(contender: number, seconds: number): Promise<number>;
  close(): Promise<void>;
}

/** Calls in a step at most, and at least. */
const CALLS = { least: 2, most: 4096 };

/**
 * Contenders on `threads` threads of native code; `fill` writes the contents of a buffer. Throws `unsupported` for
 * other machines, whose threads take fixed shares.
 */
export async function startTeam(
  name: string,
  contenders: readonly (readonly TeamKernel[])[],
  threads: number,
  fill: (contender: number, kernel: number, buffer: number, memory: Uint8Array) => void,
): Promise<Team> {
  const machine = C_MACHINES.find((machine) => machine.name === name);
  if (machine === undefined) throw new LutraError('unsupported', `${name} is not tuned on several threads`);
  const { main, weightsBytes, arenaBytes, offsets } = teamMain(contenders);
  const weights = new Uint8Array(weightsBytes);
  contenders.forEach((kernels, c) => {
    kernels.forEach(({ buffers }, k) => {
      buffers.forEach(({ bytes }, b) => {
        for (const at of offsets[c]![k]![b]!) fill(c, k, b, weights.subarray(at, at + bytes));
      });
    });
  });
  const functions = contenders.flat().map(({ fn }) => fn);
  const parts = { functions, main: legalize(main, machine), threads, weights, arenaBytes };
  const executable = await loadLibrary(machine, parts);
  const cache = executable.createCache();
  let before = 0;
  const step = async (contender: number, calls: number) => {
    const tokens = new Int32Array(calls);
    tokens.set([before, contender]);
    before += calls;
    const start = performance.now();
    await executable.step([{ tokens, position: 0, cache, logits: 'last' }]);
    return (performance.now() - start) / 1000;
  };
  return {
    async secondsOfCall(contender, seconds) {
      const first = (await step(contender, CALLS.least)) / CALLS.least;
      const calls = Math.min(CALLS.most, Math.max(CALLS.least, Math.ceil(seconds / first)));
      return (await step(contender, calls)) / calls;
    },
    close: () => executable.close(),
  };
}

async function compileNative(
  machine: CMachine,
  functions: readonly LoopFunction[],
): Promise<CompiledKernels> {
  const executable = await loadLibrary(machine, { ...program(functions), threads: 1, arenaBytes: 0 });
  const aligned = await allocateAligned();
  return {
    allocate: (sizes) => sizes.map(aligned),
    run: (kernel, buffers, scalars, end) =>
      executable.callKernel({ kernel, buffers, scalars, begin: 0, end }),
    close: () => executable.close(),
  };
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
