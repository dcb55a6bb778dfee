/** Runs a program in the loop IR that is no model, to learn what a target can do on this machine. */
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { WEIGHTS_FILE } from '../../artifact/manifest.ts';
import { type BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { LINE, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS, type Program } from '../../loops/ir.ts';
import { legalize } from '../../loops/legalize.ts';
import type { Machine } from '../../loops/machine.ts';
import { type Runnable, startExecutable } from '../../runtime/start.ts';
import { compileC, findCompiler } from '../../targets/c/compile.ts';
import { emitC } from '../../targets/c/emit.ts';
import { C_MACHINES } from '../../targets/c/machines.ts';
import { emitWasm } from '../../targets/wasm/emit.ts';
import { WASM_MACHINES } from '../../targets/wasm/machines.ts';

/** A program for each machine, and the memory it works on. */
export interface Probe {
  readonly program: (machine: Machine) => Program;
  /** Of weights, which lie in memory as a model's do: natively, mapped from a file. */
  readonly weightsBytes: number;
  readonly arenaBytes: number;
}

/** Written at once. */
const PIECE = 4 << 20;

/** A `main` that does what `body` says with the buffers and scalars of a forward step. */
export function probeMain(
  functions: readonly LoopFunction[],
  body: (m: FunctionBuilder, weights: BufferRef, arena: BufferRef) => void,
): Program {
  const m = new FunctionBuilder('main');
  const buffers = MAIN_BUFFERS.map(({ name, elem, access }) => m.buffer(name, elem, access));
  for (const { name, kind } of MAIN_SCALARS) m.scalar(name, kind);
  const named = (name: string) => buffers[MAIN_BUFFERS.findIndex((buffer) => buffer.name === name)]!;
  body(m, named('weights'), named('arena'));
  m.barrier();
  return { functions, main: m.build() };
}

function lowered({ functions, main }: Program, machine: Machine): Program {
  return { functions: functions.map((fn) => legalize(fn, machine)), main: legalize(main, machine) };
}

/** A file of so many bytes, none of them 0 and no two lines of a kilobyte alike. */
async function writeWeights(path: string, bytes: number): Promise<void> {
  const piece = Uint8Array.from({ length: Math.min(bytes, PIECE) }, (_, i) => 1 + ((i * 7 + (i >> 8)) % 255));
  const file = await open(path, 'wx');
  try {
    for (let at = 0; at < bytes; at += piece.length) {
      await file.writeFile(piece.subarray(0, Math.min(piece.length, bytes - at)));
    }
  } finally {
    await file.close();
  }
}

/** Writes the code for a target such as `c:avx2` into a folder that `startExecutable` takes. */
async function build(folder: string, target: string, probe: Probe): Promise<Runnable> {
  const { weightsBytes, arenaBytes } = probe;
  const needs = { arenaBytes, cacheBytes: LINE, vocab: 16, logitsStride: 16 };
  await mkdir(join(folder, 'code'));
  await writeWeights(join(folder, WEIGHTS_FILE), weightsBytes);
  const wasm = WASM_MACHINES.find((machine) => machine.name === target);
  if (wasm !== undefined) {
    const file = 'code/probe.wasm';
    const program = lowered(probe.program(wasm), wasm);
    await writeFile(join(folder, file), emitWasm(program, wasm, { shared: true }));
    return { path: folder, needs, code: [{ file, machines: [target] }] };
  }
  const machines = C_MACHINES.filter(({ name, isa }) => name === target || isa === 'scalar');
  const source = join(folder, 'code', 'probe.c');
  const file = 'code/probe.so';
  const variants = machines.map((machine) => ({
    machine,
    program: lowered(probe.program(machine), machine),
  }));
  await writeFile(source, emitC(variants, { name: 'probe', needs, weightsBytes }));
  await compileC({ compiler: await findCompiler(), source, output: join(folder, file) });
  return { path: folder, needs, code: [{ file, machines: machines.map(({ name }) => name) }] };
}

/** A probe that runs. */
export interface OpenProbe {
  /** Runs the program; gives the seconds it took. */
  step(): Promise<number>;
  close(): Promise<void>;
}

/** Measures a rate, as often as it is asked. */
export interface Meter {
  /** Per second, the best of several passes. */
  measure(): Promise<number>;
  close(): Promise<void>;
}

/** Builds a probe for a target and starts it. */
export async function openProbe(target: string, threads: number, probe: Probe): Promise<OpenProbe> {
  const folder = await mkdtemp(join(tmpdir(), 'lutra-probe-'));
  const remove = () => rm(folder, { recursive: true, force: true });
  try {
    const runnable = await build(folder, target, probe);
    const kind = target.startsWith('c:') ? 'c' : 'wasm';
    const executable = await startExecutable(runnable, { machine: target, kind }, threads);
    const cache = executable.createCache();
    return {
      async step() {
        const start = performance.now();
        await executable.step([{ tokens: new Int32Array(1), position: 0, cache, logits: 'last' }]);
        return (performance.now() - start) / 1000;
      },
      async close() {
        await executable.close();
        await remove();
      },
    };
  } catch (error) {
    await remove();
    throw error;
  }
}

/** The least seconds of a step, in so many passes or until they took long enough. */
export async function leastSeconds(
  { step }: OpenProbe,
  { passes, enoughSeconds }: { readonly passes: number; readonly enoughSeconds: number },
): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  let spent = 0;
  for (let pass = 0; pass < passes && spent < enoughSeconds; pass++) {
    const seconds = await step();
    best = Math.min(best, seconds);
    spent += seconds;
  }
  return best;
}
