/** Reads the text that `print.ts` writes. */
import { LutraError } from '../common/errors.ts';
import { I32 } from './expr.ts';
import type {
  Binding,
  BufferArg,
  BufferParam,
  Expr,
  LoopFunction,
  Program,
  ScalarKind,
  ScalarParam,
  StackBuffer,
  Stmt,
  ValueType,
} from './ir.ts';
import { parseExpr, parseKind } from './parse/expressions.ts';
import { type Cursor, createCursor, syntaxError, type Token, tokenize } from './parse/tokens.ts';
import { verifyFunction, verifyProgram } from './verify.ts';

const MAX_DEPTH = 100;

/** Names and types at one place of a function; blocks have copies. */
interface Scope {
  readonly buffers: Map<string, ScalarKind>;
  readonly values: Map<string, ValueType>;
  readonly depth: number;
}

/**
 * One function, verified. Throws a LutraError with line and column for what is not loop IR, or one that names
 * the statement for what is not well formed.
 */
export function parseFunction(text: string): LoopFunction {
  const cursor = createCursor(tokenize(text));
  const fn = readFunction(cursor);
  const rest = cursor.next();
  if (rest.kind !== 'end') syntaxError(rest, `expected the end of the text but found ${rest.text}`);
  verifyFunction(fn);
  return fn;
}

/** Kernels and `main`, verified; errors as of `parseFunction`. */
export function parseProgram(text: string): Program {
  const cursor = createCursor(tokenize(text));
  const functions: LoopFunction[] = [];
  while (cursor.peek().kind !== 'end') functions.push(readFunction(cursor));
  const main = functions.pop();
  if (main === undefined) throw new LutraError('invalid', 'loop IR text: there is no function');
  const program = { functions, main };
  verifyProgram(program);
  return program;
}

function readFunction(cursor: Cursor): LoopFunction {
  const scope: Scope = { buffers: new Map(), values: new Map(), depth: 0 };
  const buffers: BufferParam[] = [];
  const scalars: ScalarParam[] = [];
  const locals: StackBuffer[] = [];

  cursor.expect('fn');
  const name = cursor.word('a function name').text;
  cursor.expect('(');
  while (!cursor.accept(')')) {
    if (buffers.length + scalars.length > 0) cursor.expect(',');
    const token = cursor.word('a parameter');
    cursor.expect(':');
    const access = (['read', 'write', 'readwrite'] as const).find((word) => cursor.accept(word));
    const kindToken = cursor.peek();
    const kind = parseKind(cursor);
    if (access !== undefined) {
      if (scalars.length > 0) syntaxError(token, 'buffers come before scalars');
      cursor.expect('[');
      cursor.expect(']');
      buffers.push({ name: token.text, elem: kind, access });
      scope.buffers.set(token.text, kind);
    } else {
      if (kind !== 'i32' && kind !== 'f32') syntaxError(kindToken, `a scalar parameter cannot be ${kind}`);
      scalars.push({ name: token.text, kind });
      scope.values.set(token.text, { kind, lanes: 1 });
    }
  }

  cursor.expect('{');
  while (cursor.accept('local')) {
    const local = cursor.word('a name').text;
    cursor.expect(':');
    const elem = parseKind(cursor);
    cursor.expect('[');
    locals.push({ name: local, elem, size: cursor.count('a number of elements') });
    cursor.expect(']');
    scope.buffers.set(local, elem);
  }
  return { name, buffers, scalars, locals, body: readStatements(cursor, scope) };
}

/** The statements of a block, and its closing bracket. */
function readStatements(cursor: Cursor, outer: Scope): readonly Stmt[] {
  const scope: Scope = { ...outer, values: new Map(outer.values), depth: outer.depth + 1 };
  if (scope.depth > MAX_DEPTH) syntaxError(cursor.peek(), 'blocks are nested too deeply');
  const body: Stmt[] = [];
  while (!cursor.accept('}')) body.push(readStatement(cursor, scope));
  return body;
}

function readBlock(cursor: Cursor, scope: Scope): readonly Stmt[] {
  cursor.expect('{');
  return readStatements(cursor, scope);
}

function readStatement(cursor: Cursor, scope: Scope): Stmt {
  const token = cursor.word('a statement');
  switch (token.text) {
    case 'let':
    case 'var': {
      const name = cursor.word('a name').text;
      cursor.expect('=');
      const value = parseExpr(cursor, scope);
      scope.values.set(name, value.type);
      return token.text === 'let' ? { kind: 'let', name, value } : { kind: 'var', name, init: value };
    }
    case 'for':
      return readLoop(cursor, scope, 'serial');
    case 'unrolled':
    case 'thread':
      cursor.expect('for');
      return readLoop(cursor, scope, token.text);
    case 'if': {
      const condition = parseExpr(cursor, scope);
      const whenTrue = readBlock(cursor, scope);
      const whenFalse = cursor.accept('else') ? readBlock(cursor, scope) : [];
      return { kind: 'if', condition, whenTrue, whenFalse };
    }
    case 'prefetch': {
      const buffer = cursor.word('a buffer').text;
      return { kind: 'prefetch', buffer, index: readIndex(cursor, scope) };
    }
    case 'call':
      return readCall(cursor, scope);
    case 'barrier':
      return { kind: 'barrier' };
    default:
      return readAssignment(cursor, scope, token);
  }
}

function readIndex(cursor: Cursor, scope: Scope): Expr {
  cursor.expect('[');
  const index = parseExpr(cursor, scope);
  cursor.expect(']');
  return index;
}

function readAssignment(cursor: Cursor, scope: Scope, target: Token): Stmt {
  if (cursor.peek().text === '[') {
    const index = readIndex(cursor, scope);
    cursor.expect('=');
    return { kind: 'store', buffer: target.text, index, value: parseExpr(cursor, scope) };
  }
  if (!cursor.accept('=')) syntaxError(target, `${target.text} does not begin a statement`);
  return { kind: 'assign', name: target.text, value: parseExpr(cursor, scope) };
}

function readLoop(cursor: Cursor, scope: Scope, binding: Binding): Stmt {
  const variable = cursor.word('a loop variable').text;
  cursor.expect('in');
  const from = parseExpr(cursor, scope);
  cursor.expect('..');
  const to = parseExpr(cursor, scope);
  const step = cursor.accept('step') ? cursor.count('a step') : 1;
  const inner: Scope = { ...scope, values: new Map(scope.values).set(variable, I32) };
  return { kind: 'for', variable, from, to, step, binding, body: readBlock(cursor, inner) };
}

function readCall(cursor: Cursor, scope: Scope): Stmt {
  const fn = cursor.word('a function').text;
  const buffers: BufferArg[] = [];
  const scalars: Expr[] = [];
  cursor.expect('(');
  while (!cursor.accept(')')) {
    if (buffers.length + scalars.length > 0) cursor.expect(',');
    if (cursor.peek(1).text === '@') {
      const token = cursor.word('a buffer');
      if (scalars.length > 0) syntaxError(token, 'buffers come before scalars');
      cursor.expect('@');
      buffers.push({ buffer: token.text, offset: parseExpr(cursor, scope) });
    } else {
      scalars.push(parseExpr(cursor, scope));
    }
  }
  return { kind: 'call', fn, buffers, scalars };
}
