import { LutraError } from '../common/errors.ts';
import { add, I32, int, min, mul, ref } from './expr.ts';
import type { LoopFunction, Stmt } from './ir.ts';
import { threadExtent, threadLoop } from './thread.ts';

/**
 * Makes threads share a kernel's work in pieces of `grain` iterations of its thread loop:
 *
 * ```
 * thread for row in 0 .. 10 {         thread for row_part in 0 .. 4 {
 *   ...                         ->      for row in row_part * 3 .. min(row_part * 3 + 3, 10) { ... }
 * }                                   }
 * ```
 *
 * Throws `internal` where the number of iterations is not fixed.
 */
export function coarsen(fn: LoopFunction, grain: number): LoopFunction {
  if (grain === 1) return fn;
  const loop = threadLoop(fn);
  const total = constantExtent(fn);
  if (loop === undefined || total === undefined) {
    throw new LutraError('internal', `loop IR: the work of ${fn.name} has no fixed number of pieces`);
  }
  const variable = `${loop.variable}_part`;
  const from = mul(ref(variable, I32), grain);
  const body: Stmt = {
    ...loop,
    binding: 'serial',
    from,
    to: min(add(from, grain), int(total)),
  };
  const outer: Stmt = { ...loop, variable, to: int(Math.ceil(total / grain)), body: [body] };
  return { ...fn, body: fn.body.map((s) => (s === loop ? outer : s)) };
}

/** Iterations of the thread loop, where they do not depend on arguments. */
export function constantExtent(fn: LoopFunction): number | undefined {
  const extent = threadExtent(fn);
  return extent?.kind === 'const' ? Number(extent.value) : undefined;
}
