/** Runs emitted code in tests, on the calling thread. */
import { alignUp } from '../../common/math.ts';
import type { LoopFunction, Program } from '../../loops/ir.ts';
import { MAIN_BUFFERS, MAIN_SCALARS } from '../../loops/ir.ts';
import type { Machine } from '../../loops/machine.ts';
import { emitWasm } from './emit.ts';
import { engine } from './engine.ts';
import { BUFFERS_AT } from './layout.ts';
import { PAGE } from './module.ts';

/** A program of kernels alone: its main does nothing. */
export function kernelProgram(...functions: readonly LoopFunction[]): Program {
  return {
    functions,
    main: { name: 'main', buffers: MAIN_BUFFERS, scalars: MAIN_SCALARS, locals: [], body: [] },
  };
}

/**
 * Runs a legalized kernel on copies of the buffers and returns them. Without a range, `begin` and `end`
 * are not passed.
 */
export function runWasm(
  fn: LoopFunction,
  machine: Machine,
  args: {
    readonly buffers: readonly Uint8Array[];
    readonly scalars: readonly number[];
    readonly range?: { readonly begin: number; readonly end: number };
  },
): Uint8Array[] {
  const module = new engine.Module(emitWasm(kernelProgram(fn), machine, { shared: false }));
  let end = BUFFERS_AT + (1 << 18);
  const at = args.buffers.map((bytes) => {
    const start = end;
    end = alignUp(end + bytes.length, 64);
    return start;
  });
  const memory = new engine.Memory({ initial: Math.ceil(end / PAGE), maximum: 65536, shared: false });
  const { exports } = new engine.Instance(module, { env: { memory, scratch: BUFFERS_AT } });
  const view = (i: number) => new Uint8Array(memory.buffer, at[i]!, args.buffers[i]!.length);
  args.buffers.forEach((bytes, i) => {
    view(i).set(bytes);
  });
  const range = args.range === undefined ? [] : [args.range.begin, args.range.end];
  exports[fn.name]!(...at, ...args.scalars, ...range);
  return args.buffers.map((_, i) => view(i).slice());
}
