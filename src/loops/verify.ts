/**
 * Checks that a function or a program is well formed: what the builder cannot see at the time of writing, and
 * everything for code that came from elsewhere (a parser, a rewrite).
 */
import { LutraError, unreachable } from '../common/errors.ts';
import {
  type BufferParam,
  type Expr,
  type LoopFunction,
  MAIN_BUFFERS,
  MAIN_SCALARS,
  type Program,
  type ScalarKind,
  type Stmt,
  sameType,
  typeName,
  type ValueType,
} from './ir.ts';
import { KEYWORDS, printStatementHead } from './print.ts';
import { threadExtent, threadLoop } from './thread.ts';
import { checkedType } from './types.ts';
import { operands, statementExprs, statements } from './walk.ts';

const I32: ValueType = { kind: 'i32', lanes: 1 };

type Meaning =
  | { readonly is: 'buffer'; readonly elem: ScalarKind; readonly access: BufferParam['access'] }
  | { readonly is: 'value'; readonly type: ValueType; readonly mutable: boolean };

interface Scope {
  readonly fn: LoopFunction;
  readonly isMain: boolean;
  /** Every name of the function so far, for uniqueness. */
  readonly taken: Set<string>;
  /** The names that can be used here. */
  readonly visible: Map<string, Meaning>;
}

function reject(problem: string): never {
  throw new LutraError('internal', problem);
}

function inside<T>(where: string, check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (!(error instanceof LutraError)) throw error;
    const problem = error.message.replace(/^loop IR: /, '');
    throw new LutraError('internal', `loop IR: ${where}: ${problem}`, { cause: error });
  }
}

/**
 * Throws a LutraError that names the function and the statement, unless the function is well formed. Only one
 * named `main` may call kernels.
 */
export function verifyFunction(fn: LoopFunction): void {
  verifyBody(fn, fn.name === 'main');
}

/** The same for all functions of a program and how `main` calls them. */
export function verifyProgram(program: Program): void {
  const { functions, main } = program;
  const names = new Set<string>(['main']);
  for (const fn of functions) {
    inside(`in ${fn.name}`, () => {
      if (names.has(fn.name)) reject('there is another function of that name');
      if (threadLoop(fn) === undefined) reject('it has no thread loop, so every thread would do all of it');
    });
    names.add(fn.name);
    verifyFunction(fn);
    threadExtent(fn);
  }
  inside('in main', () => {
    if (main.name !== 'main') reject(`it is called ${main.name}`);
    const signature = ({ buffers, scalars }: Pick<LoopFunction, 'buffers' | 'scalars'>) =>
      [
        ...buffers.map(({ name, elem, access }) => `${name}: ${access} ${elem}[]`),
        ...scalars.map(({ name, kind }) => `${name}: ${kind}`),
      ].join(', ');
    const [got, expected] = [signature(main), signature({ buffers: MAIN_BUFFERS, scalars: MAIN_SCALARS })];
    if (got !== expected) reject(`its parameters are (${got}), not (${expected})`);
    if (threadLoop(main) !== undefined) reject('it has a thread loop; only kernels can');
  });
  verifyFunction(main);
  for (const s of statements(main.body)) {
    if (s.kind === 'store') {
      inside(`in main, at "${printStatementHead(s)}"`, () =>
        reject('every thread would store; call a kernel'),
      );
    }
    if (s.kind === 'call') inside(`in main, at "${printStatementHead(s)}"`, () => verifyCall(program, s));
  }
}

function verifyCall({ functions, main }: Program, call: Extract<Stmt, { kind: 'call' }>): void {
  const callee = functions.find((fn) => fn.name === call.fn);
  if (callee === undefined) reject(`there is no function ${call.fn}`);
  const counts = (fn: typeof callee | typeof call) =>
    `${fn.buffers.length} buffers, ${fn.scalars.length} scalars`;
  if (counts(call) !== counts(callee)) reject(`${call.fn} takes ${counts(callee)}, not ${counts(call)}`);
  callee.buffers.forEach((param, i) => {
    const { buffer } = call.buffers[i]!;
    const source = main.buffers.find((b) => b.name === buffer);
    if (source === undefined) reject(`${buffer} is not a buffer of main`);
    if (param.access !== 'read' && source.access === 'read') {
      reject(`${call.fn} writes ${param.name}, but ${buffer} is only read`);
    }
  });
  callee.scalars.forEach((param, i) => {
    const { type } = call.scalars[i]!;
    if (!sameType(type, { kind: param.kind, lanes: 1 })) {
      reject(`${param.name} of ${call.fn} is ${param.kind}, not ${typeName(type)}`);
    }
  });
}

function verifyBody(fn: LoopFunction, isMain: boolean): void {
  const scope: Scope = { fn, isMain, taken: new Set(), visible: new Map() };
  inside(`in ${fn.name}`, () => {
    checkName(fn.name);
    for (const { name, elem, access } of fn.buffers) declare(scope, name, { is: 'buffer', elem, access });
    for (const { name, kind } of fn.scalars) {
      declare(scope, name, { is: 'value', type: { kind, lanes: 1 }, mutable: false });
    }
    for (const { name, elem, size } of fn.locals) {
      if (!Number.isInteger(size) || size < 1) reject(`local ${name} has ${size} elements`);
      declare(scope, name, { is: 'buffer', elem, access: 'readwrite' });
    }
    if (fn.body.filter((s) => s.kind === 'for' && s.binding === 'thread').length > 1) {
      reject('there are two thread loops');
    }
  });
  verifyBlock(scope, fn.body, true);
}

function checkName(name: string): void {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) reject(`${JSON.stringify(name)} is not a name`);
  if (KEYWORDS.has(name)) reject(`the keyword ${name} is used as a name`);
}

function declare(scope: Scope, name: string, meaning: Meaning): void {
  checkName(name);
  if (scope.taken.has(name)) reject(`the name ${name} is used twice`);
  scope.taken.add(name);
  scope.visible.set(name, meaning);
}

function verifyBlock(scope: Scope, body: readonly Stmt[], isTop: boolean): void {
  const inner: Scope = { ...scope, visible: new Map(scope.visible) };
  for (const s of body) {
    inside(`in ${scope.fn.name}, at "${printStatementHead(s)}"`, () => verifyStatement(inner, s, isTop));
    if (s.kind === 'for') {
      const loop: Scope = { ...inner, visible: new Map(inner.visible) };
      inside(`in ${scope.fn.name}, at "${printStatementHead(s)}"`, () =>
        declare(loop, s.variable, { is: 'value', type: I32, mutable: false }),
      );
      verifyBlock(loop, s.body, false);
    } else if (s.kind === 'if') {
      verifyBlock(inner, s.whenTrue, false);
      verifyBlock(inner, s.whenFalse, false);
    }
  }
}

/** A statement apart from the blocks it holds. */
function verifyStatement(scope: Scope, s: Stmt, isTop: boolean): void {
  for (const e of statementExprs(s)) verifyExpr(scope, e);
  switch (s.kind) {
    case 'let':
      declare(scope, s.name, { is: 'value', type: s.value.type, mutable: false });
      break;
    case 'var':
      declare(scope, s.name, { is: 'value', type: s.init.type, mutable: true });
      break;
    case 'assign': {
      const target = scope.visible.get(s.name);
      if (target?.is !== 'value' || !target.mutable) reject(`${s.name} is not a register`);
      expectType(`what is assigned to ${s.name}`, s.value, target.type);
      break;
    }
    case 'store': {
      const { elem, access } = bufferNamed(scope, s.buffer);
      if (access === 'read') reject(`${s.buffer} is only read`);
      if (s.value.type.kind !== elem)
        reject(`a ${typeName(s.value.type)} is stored in ${s.buffer}: ${elem}[]`);
      expectType('an index', s.index, I32);
      break;
    }
    case 'for':
      verifyLoopHead(s, isTop);
      break;
    case 'if':
      expectType('a condition', s.condition, I32);
      break;
    case 'prefetch':
      bufferNamed(scope, s.buffer);
      expectType('an index', s.index, I32);
      break;
    case 'call':
      if (!scope.isMain) reject('only main calls');
      for (const { buffer, offset } of s.buffers) {
        bufferNamed(scope, buffer);
        expectType('an offset', offset, I32);
      }
      break;
    case 'barrier':
      if (!scope.isMain) reject('only main has barriers');
      break;
    default:
      unreachable(s);
  }
}

function verifyLoopHead(s: Extract<Stmt, { kind: 'for' }>, isTop: boolean): void {
  expectType('a bound', s.from, I32);
  expectType('a bound', s.to, I32);
  if (!Number.isInteger(s.step) || s.step < 1) reject(`the step is ${s.step}`);
  if (s.binding === 'unrolled' && (s.from.kind !== 'const' || s.to.kind !== 'const')) {
    reject('the bounds of an unrolled loop must be constant');
  }
  if (s.binding !== 'thread') return;
  if (!isTop) reject('only an outermost loop can be split among threads');
  if (s.from.kind !== 'const' || s.from.value !== 0 || s.step !== 1) {
    reject('a thread loop starts at 0 and has step 1');
  }
}

function expectType(what: string, e: Expr, type: ValueType): void {
  if (!sameType(e.type, type)) reject(`${what} must be ${typeName(type)}, not ${typeName(e.type)}`);
}

function bufferNamed(scope: Scope, name: string): Extract<Meaning, { is: 'buffer' }> {
  const meaning = scope.visible.get(name);
  return meaning?.is === 'buffer' ? meaning : reject(`${name} is not a buffer`);
}

function verifyExpr(scope: Scope, e: Expr): void {
  for (const operand of operands(e)) verifyExpr(scope, operand);
  if (e.kind === 'ref') {
    const meaning = scope.visible.get(e.name);
    if (meaning?.is !== 'value') reject(`${e.name} is not defined here`);
    expectType(e.name, e, meaning.type);
  } else if (e.kind === 'load') {
    const { elem, access } = bufferNamed(scope, e.buffer);
    if (access === 'write') reject(`${e.buffer} is only written`);
    if (e.type.kind !== elem) reject(`a ${typeName(e.type)} is loaded from ${e.buffer}: ${elem}[]`);
  }
  const type = checkedType(e);
  if (!sameType(type, e.type)) reject(`the type of ${e.kind} is ${typeName(type)}, not ${typeName(e.type)}`);
}
