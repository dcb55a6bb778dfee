import { LutraError } from '../common/errors.ts';
import type { Expr, LoopFunction, Stmt } from './ir.ts';
import { mapOperands } from './walk.ts';

export type ForLoop = Extract<Stmt, { kind: 'for' }>;

/** The loop whose iterations are split among the threads, if the function has one. */
export function threadLoop(fn: LoopFunction): ForLoop | undefined {
  return fn.body.find((s): s is ForLoop => s.kind === 'for' && s.binding === 'thread');
}

/**
 * The number of iterations of the thread loop in terms of the function's scalar parameters alone: what a
 * caller evaluates to split the work. Names bound before the loop are replaced by their values.
 */
export function threadExtent(fn: LoopFunction): Expr | undefined {
  const loop = threadLoop(fn);
  if (loop === undefined) return undefined;
  const scalars = new Set(fn.scalars.map((s) => s.name));
  const bound = new Map(
    fn.body.slice(0, fn.body.indexOf(loop)).flatMap((s) => (s.kind === 'let' ? [[s.name, s.value]] : [])),
  );
  const inline = (e: Expr): Expr => {
    if (e.kind === 'ref' && !scalars.has(e.name)) {
      const value = bound.get(e.name);
      if (value !== undefined) return inline(value);
    }
    if (e.kind === 'load' || (e.kind === 'ref' && !scalars.has(e.name))) {
      throw new LutraError(
        'internal',
        `loop IR: in ${fn.name}: the extent of the thread loop must depend on scalar parameters only`,
      );
    }
    return mapOperands(e, inline);
  };
  return inline(loop.to);
}

/** The iterations of a loop of `total` that thread `thread` of `threads` runs. */
export function threadRange(
  total: number,
  thread: number,
  threads: number,
): { readonly begin: number; readonly end: number } {
  return {
    begin: Math.floor((total * thread) / threads),
    end: Math.floor((total * (thread + 1)) / threads),
  };
}
