/** Expressions of the loop IR as C. */
import { LutraError, unreachable } from '../../common/errors.ts';
import { I32 } from '../../loops/expr.ts';
import { type BinaryOp, type Expr, isInteger, sameType, type ValueType } from '../../loops/ir.ts';
import { operands } from '../../loops/walk.ts';
import type { Helpers } from './helpers.ts';
import type { CMachine } from './machines.ts';
import {
  binaryHelper,
  binaryOperator,
  compareHelper,
  compareOperator,
  selectHelper,
  shiftHelper,
  unaryHelper,
} from './ops/arithmetic.ts';
import { castHelper } from './ops/convert.ts';
import { dotHelper } from './ops/dot.ts';
import {
  bitcastHelper,
  concatHelper,
  laneHelper,
  repeatHelper,
  shuffleHelper,
  sliceHelper,
} from './ops/lanes.ts';
import { loadHelper } from './ops/memory.ts';
import { literal } from './types.ts';

/** What the expressions of one function need to know. */
export interface Scope {
  readonly helpers: Helpers;
  readonly machine: CMachine;
  /** The C identifier of a name of the function. */
  name(name: string): string;
  /** Names of `let`s that serve as indices only; see `emitIndex`. */
  readonly indices: ReadonlySet<string>;
}

/** How tightly the outermost operator binds, as far as it matters for parentheses. */
const BINDING = { primary: 4, unary: 3, product: 2, sum: 1, other: 0 } as const;
type Binding = (typeof BINDING)[keyof typeof BINDING];

interface Code {
  readonly text: string;
  readonly binding: Binding;
}

export function emitExpr(scope: Scope, e: Expr): string {
  return emit(scope, e).text;
}

const INDEX_OPERATORS: Partial<Record<BinaryOp, string>> = { add: '+', sub: '-', mul: '*' };

/** Whether `emitIndex` writes `e` as plain C. */
export function isIndexArithmetic(e: Expr): e is Extract<Expr, { kind: 'binary' }> {
  return e.kind === 'binary' && sameType(e.type, I32) && INDEX_OPERATORS[e.op] !== undefined;
}

/**
 * An index or loop bound. Its sums and products cannot overflow, or they would point nowhere, so they are
 * plain C, of which compilers make better addressing than of arithmetic that wraps.
 */
export function emitIndex(scope: Scope, e: Expr): string {
  return index(scope, e).text;
}

function index(scope: Scope, e: Expr): Code {
  if (!isIndexArithmetic(e)) return emit(scope, e);
  return operator(INDEX_OPERATORS[e.op]!, index(scope, e.a), index(scope, e.b));
}

const primary = (text: string): Code => ({ text, binding: BINDING.primary });
const call = (name: string, ...args: string[]): Code => primary(`${name}(${args.join(', ')})`);

function wrapped(code: Code, least: Binding): string {
  return code.binding >= least ? code.text : `(${code.text})`;
}

function emit(scope: Scope, e: Expr): Code {
  const h = scope.helpers;
  const arg = (x: Expr) => emitExpr(scope, x);
  const cast = (x: Expr): Code => ({
    text: `(${h.type(e.type)})${wrapped(emit(scope, x), BINDING.unary)}`,
    binding: BINDING.unary,
  });
  switch (e.kind) {
    case 'const':
      return constant(scope, e);
    case 'ref':
      return primary(scope.name(e.name));
    case 'load': {
      const buffer = scope.name(e.buffer);
      if (e.type.lanes === 1) return primary(`${buffer}[${emitIndex(scope, e.index)}]`);
      return call(loadHelper(h, e.type), address(scope, e.buffer, e.index));
    }
    case 'unary':
      return call(unaryHelper(h, e.op, e.type), arg(e.a));
    case 'binary':
      return binary(scope, e);
    case 'shift': {
      const helper = shiftHelper(h, e.op, e.type);
      if (helper !== undefined) return call(helper, arg(e.a), String(e.by));
      return operator(e.op === 'left' ? '<<' : '>>', emit(scope, e.a), primary(String(e.by)));
    }
    case 'compare':
      return compare(scope, e);
    case 'select':
      return call(selectHelper(h, e.op, e.a.type, e.type), arg(e.a), arg(e.b), arg(e.x), arg(e.y));
    case 'cast': {
      const helper = castHelper(h, e.a.type, e.type);
      return helper === undefined ? cast(e.a) : call(helper, arg(e.a));
    }
    case 'bitcast': {
      if (e.a.kind === 'bitcast' && sameType(e.a.a.type, e.type)) return emit(scope, e.a.a);
      const helper = bitcastHelper(h, e.a.type, e.type);
      return helper === undefined ? cast(e.a) : call(helper, arg(e.a));
    }
    case 'repeat':
      return call(repeatHelper(h, e.a.type, e.type), arg(e.a));
    case 'slice': {
      if (e.type.lanes === 1) return call(laneHelper(h, e.a.type), arg(e.a), String(e.start));
      const helper = sliceHelper(h, e.a.type, e.start, e.type);
      return helper === undefined ? emit(scope, e.a) : call(helper, arg(e.a));
    }
    case 'concat': {
      const constants = constantLanes(e);
      if (constants !== undefined) return primary(`(${h.type(e.type)}){${constants.join(', ')}}`);
      const [a, b] = e.parts;
      if (a === undefined || b === undefined || e.parts.length !== 2) return notLegal(scope, e);
      return call(concatHelper(h, a.type, e.type), arg(a), arg(b));
    }
    case 'shuffle':
      return call(shuffleHelper(h, e.a.type, e.indices, e.type), arg(e.a));
    case 'dot2':
    case 'madd':
    case 'dot4':
    case 'lookup16':
    case 'lookup128':
      if (!scope.machine.native.has(e.kind)) return notLegal(scope, e);
      return call(dotHelper(h, scope.machine.isa, e), ...operands(e).map(arg));
    case 'reduce':
      return notLegal(scope, e);
    default:
      return unreachable(e);
  }
}

function notLegal(scope: Scope, e: Expr): never {
  throw new LutraError('internal', `C target: ${e.kind} is not legal on ${scope.machine.name}`, {
    hint: 'Functions must go through legalize() for this machine first.',
  });
}

function constant(scope: Scope, e: Extract<Expr, { kind: 'const' }>): Code {
  const text = literal(e.type.kind, e.value);
  if (e.type.lanes === 1) return { text, binding: text.startsWith('-') ? BINDING.unary : BINDING.primary };
  if (Object.is(e.value, 0)) return primary(`(${scope.helpers.type(e.type)}){0}`);
  return call(repeatHelper(scope.helpers, { kind: e.type.kind, lanes: 1 }, e.type), text);
}

/** The lanes of a concatenation of constants. */
function constantLanes(e: Expr): readonly string[] | undefined {
  if (e.kind === 'const') {
    return Array.from({ length: e.type.lanes }, () => literal(e.type.kind, e.value));
  }
  if (e.kind !== 'concat') return undefined;
  const parts = e.parts.map(constantLanes);
  return parts.every((p) => p !== undefined) ? parts.flat() : undefined;
}

/** Applies an operator of C, with more parentheses than C asks for and as few as compilers want to see. */
function operator(symbol: string, a: Code, b: Code): Code {
  if (symbol === '+' || symbol === '-') {
    return {
      text: `${wrapped(a, BINDING.sum)} ${symbol} ${wrapped(b, BINDING.product)}`,
      binding: BINDING.sum,
    };
  }
  if (symbol === '*') {
    return {
      text: `${wrapped(a, BINDING.product)} * ${wrapped(b, BINDING.unary)}`,
      binding: BINDING.product,
    };
  }
  return {
    text: `${wrapped(a, BINDING.unary)} ${symbol} ${wrapped(b, BINDING.unary)}`,
    binding: BINDING.other,
  };
}

/** An operand of an operator on vectors: GCC lets a scalar stand for a vector that has it in all lanes. */
function lanewise(scope: Scope, e: Expr): Code {
  return e.kind === 'const' ? primary(literal(e.type.kind, e.value)) : emit(scope, e);
}

function binary(scope: Scope, e: Extract<Expr, { kind: 'binary' }>): Code {
  const symbol = binaryOperator(e.op, e.type);
  if (symbol === undefined) {
    return call(binaryHelper(scope.helpers, e.op, e.type), emitExpr(scope, e.a), emitExpr(scope, e.b));
  }
  return operator(symbol, leftOperand(scope, e), lanewise(scope, e.b));
}

/** Of two constants the left one shows its type: it makes vectors of both, and 2 ^ 3 is no mistyped power. */
function leftOperand(scope: Scope, { a, b, type }: Extract<Expr, { kind: 'binary' }>): Code {
  if (a.kind !== 'const' || b.kind !== 'const') return lanewise(scope, a);
  if (type.lanes > 1) return emit(scope, a);
  return {
    text: `(${scope.helpers.type(type)})${wrapped(emit(scope, a), BINDING.unary)}`,
    binding: BINDING.unary,
  };
}

function compare(scope: Scope, e: Extract<Expr, { kind: 'compare' }>): Code {
  const [a, b] = [emit(scope, e.a), emit(scope, e.b)];
  const { kind } = e.a.type;
  // -Wextra calls unsigned < 0 and x == x pointless.
  const pointless = a.text === b.text || (isInteger(kind) && kind !== 'i32');
  if (pointless) return call(compareHelper(scope.helpers, e.op, e.a.type), a.text, b.text);
  return operator(compareOperator(e.op), a, b);
}

/**
 * The address of an element: `x + 4 * i`, and of one `n` after it `x + 4 * i + n`. Clang would make an `or` of a
 * sum of indices whose bits do not meet, and then not see that the addresses are near each other.
 */
export function address(scope: Scope, buffer: string, at: Expr): string {
  const name = scope.name(buffer);
  if (at.kind === 'const' && at.value === 0) return name;
  if (at.kind === 'binary' && at.op === 'add' && at.b.kind === 'const' && at.b.value > 0) {
    return `${address(scope, buffer, at.a)} + ${at.b.value}`;
  }
  return operator('+', primary(name), index(scope, at)).text;
}

/** The address to prefetch. It may be anywhere, and overflow on the way there, so sums are made in 64 bits. */
export function looseAddress(scope: Scope, buffer: string, at: Expr): string {
  return operator('+', primary(scope.name(buffer)), looseIndex(scope, at)).text;
}

function looseIndex(scope: Scope, e: Expr): Code {
  if (isIndexArithmetic(e) && e.op !== 'mul') {
    return operator(INDEX_OPERATORS[e.op]!, looseIndex(scope, e.a), emit(scope, e.b));
  }
  return { text: `(i64)${wrapped(emit(scope, e), BINDING.unary)}`, binding: BINDING.unary };
}

/** A scalar's or vector's declaration: `const u8x32 codes`. */
export function declaration(scope: Scope, type: ValueType, name: string, constant: boolean): string {
  return `${constant ? 'const ' : ''}${scope.helpers.type(type)} ${name}`;
}
