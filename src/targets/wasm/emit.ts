/**
 * A program as a WebAssembly module.
 *
 * The module imports `env.memory`, `env.scratch`, the address of this thread's scratch memory, and for shared
 * memory `env.mark`, which notes the time for a profile. It exports each kernel under its name:
 *
 *   kernel(buffer addresses ..., scalars ..., begin, end)      begin, end if it has a thread loop
 *   main(weights, arena, cache, tokens, sequences, outputs, logits, n, count, tid, threads)
 *
 * Addresses are i32 bytes, multiples of 64, at least BUFFERS_AT (see layout.ts).
 */
import { LutraError } from '../../common/errors.ts';
import { alignUp } from '../../common/math.ts';
import { kindBytes, LINE, type LoopFunction, type Program } from '../../loops/ir.ts';
import type { Machine } from '../../loops/machine.ts';
import { threadExtent, threadLoop } from '../../loops/thread.ts';
import { barrierFunction } from './barrier.ts';
import { type ExprEmitter, FunctionContext } from './context.ts';
import { encodeModule } from './encode.ts';
import { BUFFERS_AT, FACTS_SECTION, type ModuleFacts, POOL_AT } from './layout.ts';
import { MAX_PAGES, PAGE, type WasmFunction, type WasmLocal, type WasmModule } from './module.ts';
import { printModule } from './print.ts';
import { emitScalar } from './scalar.ts';
import { writeShares } from './share.ts';
import { emitBlock, type Surroundings } from './statements.ts';
import { emitVector } from './vector.ts';

export interface EmitOptions {
  /** Memory shared among threads; without it there is one thread and no atomic instruction. */
  readonly shared: boolean;
}

const SCRATCH_GLOBAL = 0;

const EXPRESSIONS: ExprEmitter = {
  value: (ctx, e) => (e.type.lanes === 1 ? emitScalar(ctx, e) : emitVector(ctx, e)),
  vector: emitVector,
};

/** The v128 constants of a module, each once. */
class ConstantPool {
  readonly #addresses = new Map<string, number>();
  readonly #bytes: number[] = [];

  /** Where in memory the constant will be. */
  place(constant: readonly number[]): number {
    const key = constant.join(' ');
    const known = this.#addresses.get(key);
    if (known !== undefined) return known;
    const at = POOL_AT + this.#bytes.length;
    if (at + 16 > BUFFERS_AT) throw new LutraError('internal', 'wasm: too many constants');
    this.#bytes.push(...constant);
    this.#addresses.set(key, at);
    return at;
  }

  data(): WasmModule['data'] {
    return this.#bytes.length === 0 ? [] : [{ at: POOL_AT, bytes: Uint8Array.from(this.#bytes) }];
  }
}

/** Scratch bytes of a function's local arrays. */
function scratchOf(fn: LoopFunction): number {
  return fn.locals.reduce((sum, { elem, size }) => sum + alignUp(size * kindBytes(elem), LINE), 0);
}

interface Place {
  readonly relaxed: boolean;
  readonly pool: ConstantPool;
  /** Where in the thread's scratch memory the local arrays begin. */
  readonly scratch: number;
}

function paramsOf(fn: LoopFunction, extra: readonly string[]): WasmLocal[] {
  const i32 = (name: string): WasmLocal => ({ name, type: 'i32' });
  return [
    ...fn.buffers.map(({ name }) => i32(name)),
    ...fn.scalars.map(({ name, kind }): WasmLocal => ({ name, type: kind })),
    ...extra.map(i32),
  ];
}

function bindScalars(ctx: FunctionContext, fn: LoopFunction): void {
  fn.scalars.forEach(({ name }, i) => {
    const local = fn.buffers.length + i;
    ctx.names.set(name, { kind: 'local', local, depth: 0, mutable: false });
  });
}

function emitFunction(
  fn: LoopFunction,
  extra: readonly string[],
  place: Place,
  around: (firstExtra: number) => Surroundings,
): WasmFunction {
  const params = paramsOf(fn, extra);
  const { relaxed, pool } = place;
  const ctx = new FunctionContext(params, EXPRESSIONS, { relaxed, addressOf: (bytes) => pool.place(bytes) });
  fn.buffers.forEach(({ name }, local) => {
    ctx.buffers.set(name, { local, offset: 0 });
  });
  bindScalars(ctx, fn);
  if (fn.locals.length > 0) {
    const local = ctx.local('scratch', 'i32');
    ctx.push('global.get', SCRATCH_GLOBAL);
    ctx.push('local.set', local);
    let offset = place.scratch;
    for (const { name, elem, size } of fn.locals) {
      ctx.buffers.set(name, { local, offset });
      offset += alignUp(size * kindBytes(elem), LINE);
    }
  }
  emitBlock(ctx, around(fn.buffers.length + fn.scalars.length), fn.body);
  return { name: fn.name, params, locals: ctx.locals, body: ctx.body(), exported: true };
}

/** The function by which a team runs a kernel. */
function emitRun(fn: LoopFunction, kernel: number, { relaxed, pool }: Place, team: boolean): WasmFunction {
  const params = paramsOf(fn, ['tid', 'threads']);
  const ctx = new FunctionContext(params, EXPRESSIONS, { relaxed, addressOf: (bytes) => pool.place(bytes) });
  bindScalars(ctx, fn);
  const tid = fn.buffers.length + fn.scalars.length;
  writeShares(ctx, {
    pushTotal: () => ctx.value(threadExtent(fn)!),
    pushArguments: () => {
      for (let local = 0; local < tid; local++) ctx.push('local.get', local);
    },
    kernel,
    tid,
    threads: tid + 1,
    team,
  });
  return { name: `run.${fn.name}`, params, locals: ctx.locals, body: ctx.body(), exported: false };
}

/** The module as data. */
function buildModule(program: Program, machine: Machine, { shared }: EmitOptions): WasmModule {
  // Machines whose dot products are native have relaxed SIMD: nothing else provides those.
  const relaxed = machine.native.has('dot2') || machine.native.has('dot4');
  const pool = new ConstantPool();
  const functions: WasmFunction[] = shared ? [barrierFunction()] : [];
  const imports = shared ? ['mark'] : [];
  const barrier = shared ? imports.length : undefined;
  const mainScratch = scratchOf(program.main);
  const runs = new Map<string, number>();
  for (const fn of program.functions) {
    const kernel = imports.length + functions.length;
    const place = { relaxed, pool, scratch: mainScratch };
    const split = threadLoop(fn) !== undefined;
    functions.push(
      emitFunction(fn, split ? ['begin', 'end'] : [], place, (begin) =>
        split ? { range: { begin, end: begin + 1 } } : {},
      ),
    );
    if (!split) continue;
    runs.set(fn.name, imports.length + functions.length);
    functions.push(emitRun(fn, kernel, place, shared));
  }
  const main = emitFunction(program.main, ['tid', 'threads'], { relaxed, pool, scratch: 0 }, (tid) => ({
    team: { tid, threads: tid + 1, barrier, mark: 0, runs },
  }));
  functions.push({ ...main, name: 'main' });
  const kernelScratch = Math.max(0, ...program.functions.map(scratchOf));
  const facts: ModuleFacts = { scratchBytes: mainScratch + kernelScratch };
  return {
    memory: { minPages: BUFFERS_AT / PAGE, maxPages: MAX_PAGES, shared },
    globals: ['scratch'],
    imports,
    functions,
    data: pool.data(),
    custom: [{ name: FACTS_SECTION, bytes: new TextEncoder().encode(JSON.stringify(facts)) }],
  };
}

/**
 * Compiles a program to WebAssembly. Its functions, main included, must be legalized for the machine, and
 * every function that main calls must have a thread loop.
 */
export function emitWasm(program: Program, machine: Machine, options: EmitOptions): Uint8Array {
  return encodeModule(buildModule(program, machine, options));
}

/** The same module in the text format, for people. */
export function emitWat(program: Program, machine: Machine, options: EmitOptions): string {
  return printModule(buildModule(program, machine, options));
}
