/**
 * Addresses of buffer elements. An index is a sum of terms; those that a loop does not change are added up
 * before it, and the constant goes into the instruction's offset immediate:
 *
 * ```
 * w[(row * 40 + k) * 64 + 16]  inside  for row { for k { ... } }
 *   before the loop over k   hoisted = w + row * 2560
 *   in it                    v128.load offset=16 (hoisted + (k << 6))
 * ```
 */
import type { Expr } from '../../loops/ir.ts';
import { operands } from '../../loops/walk.ts';
import type { FunctionContext } from './context.ts';
import { BUFFERS_AT } from './layout.ts';
import { type Linear, linearize, scaled, type Term } from './linear.ts';

/** An index as a sum, without names that stand for sums themselves. */
function linearIndex(ctx: FunctionContext, index: Expr): Linear {
  return linearize(index, (name) => {
    const binding = ctx.binding(name);
    return binding.kind === 'sum' ? binding.sum : undefined;
  });
}

/** The value as a sum of immutable names, if it is one. */
export function sumOfNames(ctx: FunctionContext, value: Expr): Linear | undefined {
  if (value.type.lanes !== 1 || value.type.kind !== 'i32') return undefined;
  const sum = linearIndex(ctx, value);
  const immutable = ({ expr }: Term) => {
    if (expr.kind !== 'ref') return false;
    const binding = ctx.binding(expr.name);
    return binding.kind === 'sum' || !binding.mutable;
  };
  return [...sum.terms.values()].every(immutable) ? sum : undefined;
}

/** Number of loops around the innermost definition that `e` depends on; the current depth if it must stay. */
function depthOf(ctx: FunctionContext, e: Expr): number {
  if (e.kind === 'ref') {
    const binding = ctx.binding(e.name);
    return binding.kind === 'local' && binding.mutable ? ctx.depth : binding.depth;
  }
  if (e.kind === 'load') return ctx.depth;
  if (e.kind === 'binary' && (e.op === 'div' || e.op === 'rem')) {
    // Division by 0 and of -2^31 by -1 trap: not to be computed where the program might not.
    if (e.b.kind !== 'const' || e.b.value === 0 || e.b.value === -1) return ctx.depth;
  }
  return Math.max(0, ...operands(e).map((operand) => depthOf(ctx, operand)));
}

function pushTerm(ctx: FunctionContext, { expr, coefficient }: Term): void {
  ctx.value(expr);
  if (coefficient === 1) return;
  const log2 = 31 - Math.clz32(coefficient);
  if (coefficient === 1 << log2) {
    ctx.push('i32.const', log2);
    ctx.push('i32.shl');
  } else {
    ctx.push('i32.const', coefficient);
    ctx.push('i32.mul');
  }
}

/** What identifies the value of terms as long as their names are bound; undefined if it can change even then. */
function identity(ctx: FunctionContext, terms: readonly Term[]): string | undefined {
  const parts = terms.map(({ expr, coefficient }) => {
    if (expr.kind !== 'ref') return undefined;
    const binding = ctx.binding(expr.name);
    return binding.kind === 'local' && !binding.mutable ? `${coefficient}*${binding.local}` : undefined;
  });
  return parts.includes(undefined) ? undefined : parts.join(' + ');
}

/** Pushes the value of a sum. */
export function pushSum(ctx: FunctionContext, { terms, constant }: Linear): void {
  const [first, ...others] = terms.values();
  if (first === undefined) {
    ctx.push('i32.const', constant);
    return;
  }
  pushTerm(ctx, first);
  for (const term of others) {
    pushTerm(ctx, term);
    ctx.push('i32.add');
  }
  if (constant !== 0) {
    ctx.push('i32.const', constant);
    ctx.push('i32.add');
  }
}

/**
 * Pushes the address of element `index` of `buffer`, in elements of `size` bytes, less a constant: returns
 * that constant, for the offset immediate.
 */
export function pushAddress(ctx: FunctionContext, buffer: string, index: Expr, size: number): number {
  const base = ctx.buffer(buffer);
  const { terms, constant } = scaled(linearIndex(ctx, index), size);
  const distance = (constant + base.offset) | 0;
  const offset = ((distance % BUFFERS_AT) + BUFFERS_AT) % BUFFERS_AT;
  const far = (distance - offset) | 0;

  const byDepth: { key: string; term: Term }[][] = Array.from({ length: ctx.depth + 1 }, () => []);
  for (const [key, term] of terms) byDepth[depthOf(ctx, term.expr)]!.push({ key, term });

  let from = base.local;
  let key = `${base.local}`;
  let rest = far;
  byDepth.forEach((group, depth) => {
    group.sort((a, b) => (a.key < b.key ? -1 : 1));
    const write = () => {
      ctx.push('local.get', from);
      for (const { term } of group) {
        pushTerm(ctx, term);
        ctx.push('i32.add');
      }
      if (rest !== 0) {
        ctx.push('i32.const', rest);
        ctx.push('i32.add');
      }
    };
    if (depth === ctx.depth) {
      const rests = identity(
        ctx,
        group.map(({ term }) => term),
      );
      if (rests === undefined || (group.length === 0 && rest === 0)) write();
      else ctx.shared(`${from} + ${rests} + ${rest}`, 'i32', write);
    } else if (group.length > 0 || rest !== 0) {
      key = [key, ...group.map((g) => `${g.term.coefficient}*${g.key}`), rest].join(' + ');
      from = ctx.hoist(depth, key, 'i32', write);
      rest = 0;
    }
  });
  return offset;
}
