/** Index expressions as sums, so that addresses can be taken apart into what changes and what does not. */
import type { Expr } from '../../loops/ir.ts';

/** sum of coefficient * expr, plus constant; modulo 2^32, as i32 arithmetic is. */
export interface Linear {
  /** By the text of the expression. */
  readonly terms: ReadonlyMap<string, Term>;
  readonly constant: number;
}

export interface Term {
  readonly expr: Expr;
  readonly coefficient: number;
}

const constant = (value: number): Linear => ({ terms: new Map(), constant: value | 0 });

export function scaled(a: Linear, factor: number): Linear {
  const terms = new Map<string, Term>();
  for (const [key, { expr, coefficient }] of a.terms) {
    const product = Math.imul(coefficient, factor);
    if (product !== 0) terms.set(key, { expr, coefficient: product });
  }
  return { terms, constant: Math.imul(a.constant, factor) };
}

function sum(a: Linear, b: Linear): Linear {
  const terms = new Map(a.terms);
  for (const [key, term] of b.terms) {
    const coefficient = ((terms.get(key)?.coefficient ?? 0) + term.coefficient) | 0;
    if (coefficient === 0) terms.delete(key);
    else terms.set(key, { expr: term.expr, coefficient });
  }
  return { terms, constant: (a.constant + b.constant) | 0 };
}

/** `known` gives the sum behind a name, where there is one: the names in it are terms of the result. */
export function linearize(e: Expr, known: (name: string) => Linear | undefined): Linear {
  if (e.kind === 'const') return constant(e.value);
  if (e.kind === 'ref') {
    return known(e.name) ?? { terms: new Map([[e.name, { expr: e, coefficient: 1 }]]), constant: 0 };
  }
  if (e.kind === 'shift' && e.op === 'left') return scaled(linearize(e.a, known), 1 << e.by);
  if (e.kind === 'binary' && (e.op === 'add' || e.op === 'sub' || e.op === 'mul')) {
    const a = linearize(e.a, known);
    const b = linearize(e.b, known);
    if (e.op === 'add') return sum(a, b);
    if (e.op === 'sub') return sum(a, scaled(b, -1));
    if (b.terms.size === 0) return scaled(a, b.constant);
    if (a.terms.size === 0) return scaled(b, a.constant);
  }
  return { terms: new Map([[JSON.stringify(e), { expr: e, coefficient: 1 }]]), constant: 0 };
}
