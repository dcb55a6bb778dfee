/**
 * How fast code of a target reads memory: a program in the loop IR that only reads, run like a model. It
 * says what a token can cost at best, as each one reads all weights.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { freemem, tmpdir } from 'node:os';
import { join } from 'node:path';
import { WEIGHTS_FILE } from '../../artifact/manifest.ts';
import { LutraError } from '../../common/errors.ts';
import { FunctionBuilder } from '../../loops/builder.ts';
import { add, bitcast, compare, constant, mul, vector } from '../../loops/expr.ts';
import { LINE, MAIN_BUFFERS, MAIN_SCALARS, type Program } from '../../loops/ir.ts';
import { legalize } from '../../loops/legalize.ts';
import type { Machine } from '../../loops/machine.ts';
import { type Runnable, startExecutable } from '../../runtime/start.ts';
import { compileC, findCompiler } from '../../targets/c/compile.ts';
import { emitC } from '../../targets/c/emit.ts';
import { C_MACHINES } from '../../targets/c/machines.ts';
import { detectCpu } from '../../targets/cpu.ts';
import { emitWasm } from '../../targets/wasm/emit.ts';
import { WASM_MACHINES } from '../../targets/wasm/machines.ts';

/** What one iteration of the thread loop reads, and how many sums it keeps going at once. */
const CHUNK = 64 << 10;
const SUMS = 4;
const PASSES = 7;
const SMALLEST = 256 << 20;
const LARGEST = 1 << 30;

/**
 * Two kernels over a buffer of so many chunks, chosen by the tokens of the step: `fill` for one, as memory
 * never written is not there to be read, and `readAll` for more, which adds everything up.
 */
export function readProgram(chunks: number): Program {
  const words = vector('i32', LINE / 4);

  const f = new FunctionBuilder('fill');
  const filled = f.buffer('bytes', 'u8', 'write');
  f.thread('chunk', chunks, (chunk) =>
    f.for('at', 0, CHUNK, LINE, (at) =>
      f.store(filled, add(mul(chunk, CHUNK), at), constant(vector('u8', LINE), 1)),
    ),
  );

  const r = new FunctionBuilder('readAll');
  const bytes = r.buffer('bytes', 'u8', 'read');
  const out = r.buffer('sums', 'i32', 'write');
  r.thread('chunk', chunks, (chunk) => {
    const sums = Array.from({ length: SUMS }, (_, i) => r.var(`sum${i}`, constant(words, 0)));
    const start = r.let('start', mul(chunk, CHUNK));
    r.for('at', 0, CHUNK, SUMS * LINE, (at) => {
      const base = r.let('base', add(start, at));
      for (const [i, sum] of sums.entries()) {
        r.set(sum, add(sum, bitcast(r.load(bytes, add(base, i * LINE), LINE), words)));
      }
    });
    r.store(
      out,
      mul(chunk, LINE / 4),
      sums.reduce((a, b) => add(a, b)),
    );
  });

  const m = new FunctionBuilder('main');
  const buffers = MAIN_BUFFERS.map(({ name, elem, access }) => m.buffer(name, elem, access));
  const scalars = MAIN_SCALARS.map(({ name, kind }) => m.scalar(name, kind));
  const [, arena, cache] = buffers;
  const place = (buffer = buffers[0]!) => ({ buffer, offset: 0 });
  m.if(
    compare('eq', scalars[0]!, constant(vector('i32', 1), 1)),
    () => m.call('fill', [place(cache)], []),
    () => m.call('readAll', [place(cache), place(arena)], []),
  );
  m.barrier();
  return { functions: [f.build(), r.build()], main: m.build() };
}

function lowered(program: Program, machine: Machine): Program {
  const { functions, main } = program;
  return { functions: functions.map((fn) => legalize(fn, machine)), main: legalize(main, machine) };
}

/** Writes the code for a target such as `c:avx2` into a folder that `startExecutable` takes. */
async function build(folder: string, target: string, chunks: number): Promise<Runnable> {
  const needs = { arenaBytes: chunks * LINE, cacheBytes: chunks * CHUNK, vocab: 16, logitsStride: 16 };
  const program = readProgram(chunks);
  await mkdir(join(folder, 'code'));
  await writeFile(join(folder, WEIGHTS_FILE), new Uint8Array(LINE));
  const wasm = WASM_MACHINES.find((machine) => machine.name === target);
  if (wasm !== undefined) {
    const file = 'code/read.wasm';
    await writeFile(join(folder, file), emitWasm(lowered(program, wasm), wasm, { shared: true }));
    return { path: folder, needs, code: [{ file, machines: [target] }] };
  }
  const machines = C_MACHINES.filter(({ name, isa }) => name === target || isa === 'scalar');
  const source = join(folder, 'code', 'read.c');
  const file = 'code/read.so';
  const variants = machines.map((machine) => ({ machine, program: lowered(program, machine) }));
  await writeFile(source, emitC(variants, { name: 'read', needs, weightsBytes: LINE }));
  await compileC({ compiler: await findCompiler(), source, output: join(folder, file) });
  return { path: folder, needs, code: [{ file, machines: machines.map(({ name }) => name) }] };
}

/** Larger than the caches by far, and no more than half of the memory that is free. */
async function bufferBytes(): Promise<number> {
  const { caches } = await detectCpu();
  const wanted = Math.min(Math.max(SMALLEST, 4 * caches.l3), LARGEST);
  const bytes = Math.floor(Math.min(wanted, freemem() / 2) / CHUNK) * CHUNK;
  if (bytes < CHUNK) throw new LutraError('environment', 'no memory is free to measure its bandwidth');
  return bytes;
}

/** Bytes per second that this many threads read, the best of several passes over a buffer. */
export async function measureBandwidth(target: string, threads: number): Promise<number> {
  const bytes = await bufferBytes();
  const folder = await mkdtemp(join(tmpdir(), 'lutra-read-'));
  try {
    const runnable = await build(folder, target, bytes / CHUNK);
    const kind = target.startsWith('c:') ? 'c' : 'wasm';
    const executable = await startExecutable(runnable, { machine: target, kind }, threads);
    try {
      const cache = executable.createCache();
      const step = (tokens: number) =>
        executable.step([{ tokens: new Int32Array(tokens), position: 0, cache, logits: 'last' }]);
      await step(1);
      let best = Number.POSITIVE_INFINITY;
      for (let pass = 0; pass < PASSES; pass++) {
        const start = performance.now();
        await step(2);
        best = Math.min(best, performance.now() - start);
      }
      return bytes / (best / 1000);
    } finally {
      await executable.close();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
