import * as x from '../expr.ts';
import type { Expr } from '../ir.ts';

/** An i32 scalar as a part that varies and a constant; no base means zero. */
interface Split {
  readonly base: Expr | undefined;
  readonly offset: number;
}

/**
 * Separates the constant of an address, so that the pieces of a value and the copies of an unrolled loop
 * share the rest: `(row * 4 + 1) * 64 + 32` is `(row * 4) * 64` and 96. i32 arithmetic wraps, which keeps
 * this exact.
 */
export function splitIndex(e: Expr): Split {
  if (e.kind === 'const') return { base: undefined, offset: e.value };
  if (e.kind === 'binary' && (e.op === 'add' || (e.op === 'sub' && e.b.kind === 'const'))) {
    const [a, b] = [splitIndex(e.a), splitIndex(e.b)];
    if (e.op === 'sub') return { base: a.base, offset: (a.offset - b.offset) | 0 };
    const base = a.base && b.base ? x.add(a.base, b.base) : (a.base ?? b.base);
    return { base, offset: (a.offset + b.offset) | 0 };
  }
  if (e.kind === 'binary' && e.op === 'mul' && e.b.kind === 'const') {
    const { base, offset } = splitIndex(e.a);
    const factor = e.b.value;
    return { base: base && x.mul(base, factor), offset: Math.imul(offset, factor) };
  }
  return { base: e, offset: 0 };
}

export function joinIndex({ base, offset }: Split): Expr {
  return base === undefined ? x.int(offset) : x.add(base, offset);
}
