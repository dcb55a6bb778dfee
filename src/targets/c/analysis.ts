/** What the emitter finds out about a function before it writes it. */
import { I32 } from '../../loops/expr.ts';
import { type Expr, type LoopFunction, type Program, type Stmt, sameType } from '../../loops/ir.ts';
import { operands, statementExprs, statements } from '../../loops/walk.ts';
import { isIndexArithmetic } from './expression.ts';

function names(e: Expr, into: Set<string>): void {
  if (e.kind === 'ref') into.add(e.name);
  if (e.kind === 'load') into.add(e.buffer);
  for (const operand of operands(e)) names(operand, into);
}

/** Names that have a part in what the function stores; the rest is not worth emitting. */
export function usedNames(fn: LoopFunction): ReadonlySet<string> {
  const used = new Set<string>();
  const all = [...statements(fn.body)];
  const target = (s: Stmt) =>
    s.kind === 'let' || s.kind === 'var' || s.kind === 'assign' ? s.name : undefined;
  for (let before = -1; before !== used.size; ) {
    before = used.size;
    for (const s of all) {
      const name = target(s);
      if (name !== undefined && !used.has(name)) continue;
      // A kernel is told its part of the thread loop: it does not look at the bounds.
      if (!(s.kind === 'for' && s.binding === 'thread')) for (const e of statementExprs(s)) names(e, used);
      if (s.kind === 'store' || s.kind === 'prefetch') used.add(s.buffer);
      if (s.kind === 'call') for (const b of s.buffers) used.add(b.buffer);
    }
  }
  return used;
}

/**
 * Names of i32 `let`s that contribute to indices and loop bounds and to no other values; see `emitIndex`.
 * Prefetches count for neither: what is harmless out of range may also overflow.
 */
export function indexNames(fn: LoopFunction): ReadonlySet<string> {
  const all = [...statements(fn.body)];
  const [values, indices] = [new Set<string>(), new Set<string>()];
  const asValue = (e: Expr): void => {
    if (e.kind === 'ref') values.add(e.name);
    if (e.kind === 'load') asIndex(e.index);
    else operands(e).forEach(asValue);
  };
  const asIndex = (e: Expr): void => {
    if (e.kind === 'ref') indices.add(e.name);
    else if (isIndexArithmetic(e)) operands(e).forEach(asIndex);
    else asValue(e);
  };
  const visit = (s: Stmt): void => {
    if (s.kind === 'let' && sameType(s.value.type, I32)) {
      if (values.has(s.name)) asValue(s.value);
      else if (indices.has(s.name)) asIndex(s.value);
    } else if (s.kind === 'for') {
      statementExprs(s).forEach(asIndex);
    } else if (s.kind === 'store') {
      asIndex(s.index);
      asValue(s.value);
    } else if (s.kind !== 'prefetch') {
      statementExprs(s).forEach(asValue);
    }
  };
  // What a name is used for decides about the names it is computed from, further up.
  for (let before = -1; before !== values.size + indices.size; ) {
    before = values.size + indices.size;
    all.forEach(visit);
  }
  return new Set([...indices].filter((name) => !values.has(name)));
}

/**
 * Pairs of a kernel's parameters that `main` gives the same memory. Two arguments of a call are disjoint
 * unless they are the same buffer and offset, so all others can be `restrict`.
 */
export function aliasedParams(program: Program): ReadonlyMap<string, ReadonlySet<number>> {
  const aliased = new Map<string, Set<number>>();
  for (const s of statements(program.main.body)) {
    if (s.kind !== 'call') continue;
    const places = s.buffers.map((b) => `${b.buffer} ${JSON.stringify(b.offset)}`);
    places.forEach((place, i) => {
      if (places.indexOf(place) === places.lastIndexOf(place)) return;
      const known = aliased.get(s.fn) ?? new Set();
      aliased.set(s.fn, known.add(i));
    });
  }
  return aliased;
}
