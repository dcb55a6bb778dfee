import { LutraError } from '../../common/errors.ts';
import type { BinaryOp, CompareOp, Expr, ScalarKind, UnaryOp, ValueType } from '../ir.ts';
import { BINDS, COMPARE_SYMBOLS, INFIX, KEYWORDS } from '../print.ts';
import { checkedType } from '../types.ts';
import { type Cursor, syntaxError, type Token } from './tokens.ts';

/** What names mean where the parser is. */
export interface Names {
  readonly buffers: ReadonlyMap<string, ScalarKind>;
  readonly values: ReadonlyMap<string, ValueType>;
}

interface Reader {
  readonly cursor: Cursor;
  readonly names: Names;
  depth: number;
}

// Deeper text is not from a kernel, and would exhaust the stack.
const MAX_DEPTH = 400;

const UNARY: ReadonlySet<string> = new Set<UnaryOp>(['neg', 'abs', 'sqrt', 'nearest', 'popcount']);
const BINARY_CALLS: ReadonlySet<string> = new Set<BinaryOp>(['min', 'max', 'averageRound']);
const REDUCTIONS = ['add', 'min', 'max'] as const;
const KIND = /^(i8|u8|i16|u16|i32|u32|f32|f16|bf16)(?:x(\d+))?$/;

const compareOps = new Map(
  Object.entries(COMPARE_SYMBOLS).map(([op, symbol]) => [symbol, op as CompareOp] as const),
);

function infixOps(binds: number): ReadonlyMap<string, BinaryOp> {
  return new Map(
    Object.entries(INFIX).flatMap(([op, infix]) =>
      infix.binds === binds ? [[infix.symbol, op as BinaryOp] as const] : [],
    ),
  );
}

const BITS = infixOps(BINDS.bits);
const SUMS = infixOps(BINDS.sum);
const PRODUCTS = infixOps(BINDS.product);

export function parseExpr(cursor: Cursor, names: Names): Expr {
  return expression({ cursor, names, depth: 0 });
}

export function parseKind(cursor: Cursor): ScalarKind {
  const token = cursor.word('a kind');
  const type = typeOf(token.text);
  if (type?.lanes !== 1 || token.text.includes('x')) syntaxError(token, `${token.text} is not a kind`);
  return type.kind;
}

/** `u8x64` as a type. */
function typeOf(text: string): ValueType | undefined {
  const match = KIND.exec(text);
  return match ? { kind: match[1] as ScalarKind, lanes: Number(match[2] ?? 1) } : undefined;
}

/** Completes an expression with the type it must have. */
function typed(at: Token, e: Expr): Expr {
  try {
    return { ...e, type: checkedType(e) };
  } catch (error) {
    if (!(error instanceof LutraError)) throw error;
    return syntaxError(at, error.message.replace(/^loop IR: /, ''), error);
  }
}

function expression(r: Reader): Expr {
  const at = r.cursor.peek();
  if (++r.depth > MAX_DEPTH) syntaxError(at, 'the expression is nested too deeply');
  const a = bits(r);
  const op = compareOps.get(r.cursor.peek().text);
  let result = a;
  if (op !== undefined) {
    r.cursor.next();
    const b = bits(r);
    result = typed(at, { kind: 'compare', op, a, b, type: a.type });
  }
  r.depth--;
  return result;
}

function chain(
  r: Reader,
  ops: ReadonlyMap<string, BinaryOp>,
  operand: (r: Reader) => Expr,
  onlyOne: boolean,
): Expr {
  const at = r.cursor.peek();
  let a = operand(r);
  for (;;) {
    const op = ops.get(r.cursor.peek().text);
    if (op === undefined) return a;
    r.cursor.next();
    const b = operand(r);
    a = typed(at, { kind: 'binary', op, a, b, type: a.type });
    if (onlyOne) return a;
  }
}

const products = (r: Reader): Expr => chain(r, PRODUCTS, primary, false);
const sums = (r: Reader): Expr => chain(r, SUMS, products, false);

function bits(r: Reader): Expr {
  const at = r.cursor.peek();
  const a = chain(r, BITS, sums, true);
  const { text } = r.cursor.peek();
  if (text !== '<<' && text !== '>>') return a;
  r.cursor.next();
  const by = r.cursor.count('a number of bits');
  return typed(at, { kind: 'shift', op: text === '<<' ? 'left' : 'right', a, by, type: a.type });
}

function primary(r: Reader): Expr {
  const { cursor, names } = r;
  const token = cursor.next();
  if (token.text === '(' && token.kind === 'symbol') {
    const inner = expression(r);
    cursor.expect(')');
    return inner;
  }
  if (isLiteral(token, cursor)) {
    const { value, isFloat } = literal(token, cursor);
    return typed(token, { kind: 'const', value, type: { kind: isFloat ? 'f32' : 'i32', lanes: 1 } });
  }
  if (token.kind !== 'word' || KEYWORDS.has(token.text)) {
    syntaxError(token, `expected a value but found ${token.text}`);
  }
  if (cursor.accept('(')) {
    const result = call(r, token);
    cursor.expect(')');
    return result;
  }
  if (cursor.accept('[')) {
    const kind = names.buffers.get(token.text);
    if (kind === undefined) syntaxError(token, `there is no buffer ${token.text}`);
    const index = expression(r);
    const lanes = cursor.accept('+:') ? cursor.count('a number of lanes') : 1;
    cursor.expect(']');
    return typed(token, { kind: 'load', buffer: token.text, index, type: { kind, lanes } });
  }
  const type = names.values.get(token.text);
  if (type === undefined) syntaxError(token, `there is no value ${token.text} here`);
  return { kind: 'ref', name: token.text, type };
}

function isLiteral(token: Token, cursor: Cursor): boolean {
  if (token.kind === 'number' || token.text === 'inf' || token.text === 'nan') return true;
  const following = cursor.peek();
  return token.text === '-' && (following.kind === 'number' || following.text === 'inf');
}

function literal(first: Token, cursor: Cursor): { readonly value: number; readonly isFloat: boolean } {
  const negative = first.text === '-';
  const { text } = negative ? cursor.next() : first;
  const isFloat = !/^\d+$/.test(text);
  const magnitude = text === 'inf' ? Number.POSITIVE_INFINITY : text === 'nan' ? Number.NaN : Number(text);
  const value = negative ? -magnitude : magnitude;
  // A whole zero has no sign.
  return { value: isFloat ? Math.fround(value) : value + 0, isFloat };
}

/** What is written like a call, after its opening bracket. */
function call(r: Reader, name: Token): Expr {
  const { cursor } = r;
  const type = typeOf(name.text);
  if (type !== undefined) {
    const token = cursor.next();
    if (!isLiteral(token, cursor)) syntaxError(token, `expected a number but found ${token.text}`);
    return typed(name, { kind: 'const', type, value: literal(token, cursor).value });
  }
  const build = CALLS.get(name.text) ?? operatorCall(name.text);
  if (build === undefined) syntaxError(name, `there is no operation ${name.text}`);
  return typed(name, build(r));
}

type Build = (r: Reader) => Expr;

const next = (r: Reader): Expr => {
  r.cursor.expect(',');
  return expression(r);
};

const nextCount = (r: Reader, what: string): number => {
  r.cursor.expect(',');
  return r.cursor.count(what);
};

function operatorCall(name: string): Build | undefined {
  if (UNARY.has(name)) {
    return (r) => {
      const a = expression(r);
      return { kind: 'unary', op: name as UnaryOp, a, type: a.type };
    };
  }
  if (!BINARY_CALLS.has(name)) return undefined;
  return (r) => {
    const a = expression(r);
    return { kind: 'binary', op: name as BinaryOp, a, b: next(r), type: a.type };
  };
}

/** Each reads what stands between the brackets; `typed` computes types that are left as an operand's. */
const CALLS: ReadonlyMap<string, Build> = new Map(
  Object.entries<Build>({
    // The comparison is of lanes, which no expression by itself can be.
    select(r) {
      const a = bits(r);
      const token = r.cursor.next();
      const op = compareOps.get(token.text);
      if (op === undefined) syntaxError(token, `expected a comparison but found ${token.text}`);
      const b = bits(r);
      const x = next(r);
      return { kind: 'select', op, a, b, x, y: next(r), type: x.type };
    },
    cast(r) {
      const a = expression(r);
      r.cursor.expect(',');
      return { kind: 'cast', a, type: { kind: parseKind(r.cursor), lanes: a.type.lanes } };
    },
    bitcast(r) {
      const a = expression(r);
      r.cursor.expect(',');
      const token = r.cursor.word('a type');
      return {
        kind: 'bitcast',
        a,
        type: typeOf(token.text) ?? syntaxError(token, `${token.text} is not a type`),
      };
    },
    repeat(r) {
      const a = expression(r);
      return { kind: 'repeat', a, times: nextCount(r, 'how many times'), type: a.type };
    },
    slice(r) {
      const a = expression(r);
      const start = nextCount(r, 'the first lane');
      return { kind: 'slice', a, start, type: { ...a.type, lanes: nextCount(r, 'a number of lanes') } };
    },
    concat(r) {
      const parts = [expression(r)];
      while (r.cursor.peek().text === ',') parts.push(next(r));
      return { kind: 'concat', parts, type: parts[0]!.type };
    },
    shuffle(r) {
      const a = expression(r);
      r.cursor.expect(',');
      r.cursor.expect('[');
      const indices = [r.cursor.count('a lane')];
      while (r.cursor.accept(',')) indices.push(r.cursor.count('a lane'));
      r.cursor.expect(']');
      return { kind: 'shuffle', a, indices, type: a.type };
    },
    dot2(r) {
      const a = expression(r);
      const b = next(r);
      return { kind: 'dot2', a, b, aMax: nextCount(r, 'the largest code'), type: a.type };
    },
    madd(r) {
      const a = expression(r);
      return { kind: 'madd', a, b: next(r), type: a.type };
    },
    dot4(r) {
      const acc = expression(r);
      const a = next(r);
      const b = next(r);
      return { kind: 'dot4', acc, a, b, aMax: nextCount(r, 'the largest code'), type: acc.type };
    },
    lookup16(r) {
      const table = expression(r);
      return { kind: 'lookup16', table, index: next(r), type: table.type };
    },
    lookup128(r) {
      const low = expression(r);
      const high = next(r);
      return { kind: 'lookup128', low, high, index: next(r), type: low.type };
    },
    reduce(r) {
      const token = r.cursor.word('an operation');
      const op = REDUCTIONS.find((known) => known === token.text);
      if (op === undefined) syntaxError(token, `${token.text} does not reduce`);
      const a = next(r);
      return { kind: 'reduce', op, a, type: a.type };
    },
  }),
);
