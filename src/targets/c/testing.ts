/** For tests: programs of kernels alone, compiled and loaded. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FunctionBuilder } from '../../loops/builder.ts';
import * as x from '../../loops/expr.ts';
import { runFunction } from '../../loops/interpret.ts';
import { type Expr, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS, type Program } from '../../loops/ir.ts';
import { legalize } from '../../loops/legalize.ts';
import { copyBuffers, firstDifference, type RandomCase } from '../../loops/testing.ts';
import { threadLoop } from '../../loops/thread.ts';
import type { MemoryNeeds } from '../executable.ts';
import { type Compiler, compileC } from './compile.ts';
import { type CModelInfo, type CVariant, emitC } from './emit.ts';
import { loadNative } from './executable.ts';
import { C_MACHINES, type CMachine } from './machines.ts';

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

/** The compiler with warnings as errors, and other arguments before ours. */
export function strict(c: Compiler, ...more: string[]): Compiler {
  return { ...c, command: [...c.command, '-Wall', '-Wextra', '-Werror', ...more] };
}

const EMULATION = fileURLToPath(new URL('../../../test/c/emulate.h', import.meta.url));

/** Whether SIMDe is installed, which `emulating` needs. */
export const canEmulate = ['/usr/include', '/usr/local/include', '/opt/homebrew/include'].some((folder) =>
  existsSync(join(folder, 'simde/x86/avx512.h')),
);

/** The variants that few processors have. */
export const EMULATED_MACHINES: readonly CMachine[] = C_MACHINES.filter((m) => /vnni|vbmi/.test(m.isa));

const SCALAR = C_MACHINES.filter((m) => m.isa === 'scalar');

/** The compiler, every variant made of portable intrinsics. */
export function emulating(c: Compiler): Compiler {
  return strict(c, `-DLUTRA_EMULATE="${EMULATION}"`, '-Wno-psabi', '-Wno-unused-parameter');
}

/** What of all cases on all machines differs from the interpreter. */
export async function differences(
  cases: readonly RandomCase[],
  machines: readonly CMachine[],
  compiler: Compiler,
): Promise<readonly string[]> {
  return withFolder(async (folder) => {
    const functions = cases.map((c) => c.fn);
    const variants = machines.map((machine) => kernelsOnly(machine, functions));
    // No file is without the scalar variant, but it may be empty.
    if (!machines.some((m) => m.isa === 'scalar')) variants.push(...SCALAR.map((m) => kernelsOnly(m, [])));
    const source = await writeSource(folder, emitC(variants, KERNELS_INFO));
    const library = join(folder, 'model.so');
    await compileC({ compiler, source, output: library });
    const found: string[] = [];
    for (const machine of machines) {
      const executable = await loadNative({ library, machine: machine.name, needs: NO_NEEDS, threads: 1 });
      for (const { fn, buffers, scalars } of cases) {
        const [expected, got] = [copyBuffers(buffers), copyBuffers(buffers)];
        const range = { begin: 0, end: scalars[0] ?? 1 };
        const args = { buffers: expected, scalars };
        runFunction(fn, threadLoop(fn) === undefined ? args : { ...args, range });
        await executable.callKernel({ kernel: fn.name, buffers: got, scalars, ...range });
        const difference = firstDifference(fn, expected, got);
        if (difference !== undefined) found.push(`${machine.name}: ${fn.name}: ${difference}`);
      }
      await executable.close();
    }
    return found;
  });
}

const CELLS = 64;
const VOCAB = 20;
const STRIDE = 32;

export const MIXER_INFO: CModelInfo = {
  name: 'mixer',
  needs: { arenaBytes: 2 * CELLS * 4, cacheBytes: CELLS * 4, vocab: VOCAB, logitsStride: STRIDE },
  weightsBytes: CELLS * 4,
};

/**
 * A program in which every thread needs what the others computed just before: `rounds` times, each cell of
 * one array becomes a mix of cells far apart in the other. `salt` tells programs apart. For one sequence.
 */
export function mixer(rounds: number, salt: number): Program {
  const cells = x.int(CELLS);
  const start = new FunctionBuilder('start');
  {
    const tokens = start.buffer('tokens', 'i32', 'read');
    const weights = start.buffer('weights', 'i32', 'read');
    const cache = start.buffer('cache', 'i32', 'readwrite');
    const out = start.buffer('out', 'i32', 'write');
    const [n, pos] = [start.scalar('n'), start.scalar('pos')];
    start.thread('cell', cells, (cell) => {
      const token = start.load(tokens, x.rem(cell, n));
      const before = start.load(cache, cell);
      const value = x.add(x.add(x.mul(token, 7919), start.load(weights, cell)), x.add(before, salt));
      start.store(out, cell, value);
      start.store(cache, cell, x.add(before, x.add(token, pos)));
    });
  }
  const mix = new FunctionBuilder('mix');
  {
    const from = mix.buffer('from', 'i32', 'read');
    const to = mix.buffer('to', 'i32', 'write');
    const rows = mix.local('rows', 'i32', CELLS);
    const count = mix.scalar('count');
    mix.thread('cell', count, (cell) => {
      mix.for('i', 0, CELLS, 8, (i) => mix.store(rows, i, mix.load(from, i, 8)));
      const other = mix.let('other', x.rem(x.add(x.mul(cell, 29), 17), CELLS));
      mix.store(to, cell, x.add(x.mul(mix.load(rows, cell), 31), mix.load(rows, other)));
    });
  }
  const finish = new FunctionBuilder('finish');
  {
    const from = finish.buffer('from', 'i32', 'read');
    const logits = finish.buffer('logits', 'f32', 'write');
    const [rows, first] = [finish.scalar('rows'), finish.scalar('first')];
    finish.thread('i', x.mul(rows, VOCAB), (i) => {
      const row = finish.let('row', x.div(i, VOCAB));
      const column = finish.let('column', x.rem(i, VOCAB));
      const cell = finish.load(from, x.rem(x.add(x.add(row, first), column), CELLS));
      finish.store(logits, x.add(x.mul(row, STRIDE), column), x.cast(cell, 'f32'));
    });
  }
  const main = new FunctionBuilder('main');
  const memory = new Map(MAIN_BUFFERS.map((b) => [b.name, main.buffer(b.name, b.elem, b.access)]));
  const [n] = MAIN_SCALARS.map((s) => main.scalar(s.name, s.kind)) as [Expr, Expr];
  const at = (name: string, offset: Expr | number = 0) => ({ buffer: memory.get(name)!, offset });
  const half = (CELLS * 4) / 64;
  const [pos, cache] = [2, 3].map((i) => main.load(memory.get('sequences')!, i)) as [Expr, Expr];
  main.call('start', [at('tokens'), at('weights'), at('cache', cache), at('arena')], [n, pos]);
  main.barrier();
  main.for('round', 0, rounds, 1, () => {
    main.call('mix', [at('arena'), at('arena', half)], [cells]);
    main.barrier();
    main.call('mix', [at('arena', half), at('arena')], [x.min(cells, x.add(n, 1000))]);
    main.barrier();
  });
  const rows = main.let('rows', main.load(memory.get('outputs')!, n));
  main.call('finish', [at('arena'), at('logits')], [rows, x.sub(n, rows)]);
  return { functions: [start.build(), mix.build(), finish.build()], main: main.build() };
}
