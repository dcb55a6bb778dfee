/** Going through expressions and statements without knowing each kind. */
import { unreachable } from '../common/errors.ts';
import type { Expr, Stmt } from './ir.ts';

/** The operands of an expression, in order. */
export function operands(e: Expr): readonly Expr[] {
  switch (e.kind) {
    case 'const':
    case 'ref':
      return [];
    case 'load':
      return [e.index];
    case 'unary':
    case 'shift':
    case 'cast':
    case 'bitcast':
    case 'repeat':
    case 'slice':
    case 'shuffle':
    case 'reduce':
      return [e.a];
    case 'binary':
    case 'compare':
    case 'dot2':
    case 'madd':
      return [e.a, e.b];
    case 'select':
      return [e.a, e.b, e.x, e.y];
    case 'concat':
      return e.parts;
    case 'dot4':
      return [e.acc, e.a, e.b];
    case 'lookup16':
      return [e.table, e.index];
    case 'lookup128':
      return [e.low, e.high, e.index];
    default:
      return unreachable(e);
  }
}

/** The same operation on other operands, which must have the types of the old ones. */
export function mapOperands(e: Expr, f: (operand: Expr) => Expr): Expr {
  switch (e.kind) {
    case 'const':
    case 'ref':
      return e;
    case 'load':
      return { ...e, index: f(e.index) };
    case 'unary':
    case 'shift':
    case 'cast':
    case 'bitcast':
    case 'repeat':
    case 'slice':
    case 'shuffle':
    case 'reduce':
      return { ...e, a: f(e.a) };
    case 'binary':
    case 'compare':
    case 'dot2':
    case 'madd':
      return { ...e, a: f(e.a), b: f(e.b) };
    case 'select':
      return { ...e, a: f(e.a), b: f(e.b), x: f(e.x), y: f(e.y) };
    case 'concat':
      return { ...e, parts: e.parts.map(f) };
    case 'dot4':
      return { ...e, acc: f(e.acc), a: f(e.a), b: f(e.b) };
    case 'lookup16':
      return { ...e, table: f(e.table), index: f(e.index) };
    case 'lookup128':
      return { ...e, low: f(e.low), high: f(e.high), index: f(e.index) };
    default:
      return unreachable(e);
  }
}

/** The expressions that a statement itself holds, in order, without those of statements inside it. */
export function statementExprs(s: Stmt): readonly Expr[] {
  switch (s.kind) {
    case 'let':
    case 'assign':
      return [s.value];
    case 'var':
      return [s.init];
    case 'store':
      return [s.index, s.value];
    case 'for':
      return [s.from, s.to];
    case 'if':
      return [s.condition];
    case 'prefetch':
      return [s.index];
    case 'call':
      return [...s.buffers.map((b) => b.offset), ...s.scalars];
    case 'barrier':
      return [];
    default:
      return unreachable(s);
  }
}

/** Every statement of a body, those inside others after the one that holds them. */
export function* statements(body: readonly Stmt[]): Generator<Stmt> {
  for (const s of body) {
    yield s;
    if (s.kind === 'for') yield* statements(s.body);
    if (s.kind === 'if') {
      yield* statements(s.whenTrue);
      yield* statements(s.whenFalse);
    }
  }
}
