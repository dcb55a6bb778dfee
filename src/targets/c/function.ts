/** Loop functions as C functions: kernels, and the `main` that calls them. */
import { LutraError, unreachable } from '../../common/errors.ts';
import {
  type BufferParam,
  type Expr,
  kindBytes,
  LINE,
  type LoopFunction,
  type Program,
  type Stmt,
} from '../../loops/ir.ts';
import { threadExtent, threadLoop } from '../../loops/thread.ts';
import { mapOperands, statements } from '../../loops/walk.ts';
import { indexNames, usedNames } from './analysis.ts';
import { address, declaration, emitExpr, emitIndex, looseAddress, type Scope } from './expression.ts';
import { type Helpers, isaMacro } from './helpers.ts';
import type { CMachine } from './machines.ts';
import { storeHelper } from './ops/memory.ts';
import { elementType, identifier } from './types.ts';
import { wrapLine } from './wrap.ts';

/** The kernels of a variant are told apart by its name: `qkv_avx2`. */
export function functionName(machine: CMachine, fn: LoopFunction): string {
  return `${fn.name.replace(/[^A-Za-z0-9_]/g, '_')}_${machine.isa}`;
}

/** Bytes of scratch memory that one thread needs to run a function. */
export function scratchBytes(fn: LoopFunction): number {
  return fn.locals.reduce((sum, local) => sum + lineBytes(local.size * kindBytes(local.elem)), 0);
}

function lineBytes(bytes: number): number {
  return Math.ceil(bytes / LINE) * LINE;
}

/** C identifiers for all names of a function, each made once and distinct from the others and from `reserved`. */
function nameTable(reserved: readonly string[]): (name: string) => string {
  const given = new Map<string, string>();
  const taken = new Set(reserved);
  return (name) => {
    const known = given.get(name);
    if (known !== undefined) return known;
    let fresh = identifier(name);
    while (taken.has(fresh)) fresh += '_';
    given.set(name, fresh);
    taken.add(fresh);
    return fresh;
  };
}

interface Writer extends Scope {
  readonly used: ReadonlySet<string>;
  readonly lines: string[];
  /** `main` only. */
  readonly calls: ReadonlyMap<string, LoopFunction>;
}

function line(w: Writer, depth: number, text: string): void {
  w.lines.push(...wrapLine(text, depth));
}

function block(w: Writer, depth: number, body: readonly Stmt[]): void {
  for (const s of body) statement(w, depth, s);
}

function statement(w: Writer, depth: number, s: Stmt): void {
  switch (s.kind) {
    case 'let':
    case 'var': {
      if (!w.used.has(s.name)) return;
      const value = s.kind === 'let' ? s.value : s.init;
      const code = w.indices.has(s.name) ? emitIndex(w, value) : emitExpr(w, value);
      line(w, depth, `${declaration(w, value.type, w.name(s.name), s.kind === 'let')} = ${code};`);
      return;
    }
    case 'assign':
      if (w.used.has(s.name)) line(w, depth, `${w.name(s.name)} = ${emitExpr(w, s.value)};`);
      return;
    case 'store': {
      const value = emitExpr(w, s.value);
      if (s.value.type.lanes === 1) {
        line(w, depth, `${w.name(s.buffer)}[${emitIndex(w, s.index)}] = ${value};`);
      } else {
        line(
          w,
          depth,
          `${storeHelper(w.helpers, s.value.type)}(${address(w, s.buffer, s.index)}, ${value});`,
        );
      }
      return;
    }
    case 'for':
      loop(w, depth, s);
      return;
    case 'if':
      line(w, depth, `if (${emitExpr(w, s.condition)}) {`);
      block(w, depth + 1, s.whenTrue);
      if (s.whenFalse.length > 0) {
        line(w, depth, '} else {');
        block(w, depth + 1, s.whenFalse);
      }
      line(w, depth, '}');
      return;
    case 'prefetch':
      line(w, depth, `__builtin_prefetch(${looseAddress(w, s.buffer, s.index)});`);
      return;
    case 'call':
      call(w, depth, s);
      return;
    case 'barrier':
      line(w, depth, 'barrier(thread);');
      return;
    default:
      unreachable(s);
  }
}

function loop(w: Writer, depth: number, s: Extract<Stmt, { kind: 'for' }>): void {
  if (s.binding === 'unrolled') {
    throw new LutraError('internal', `C target: the loop over ${s.variable} must be unrolled by legalize()`);
  }
  const i = w.name(s.variable);
  const step = s.step === 1 ? `${i}++` : `${i} += ${s.step}`;
  if (s.binding === 'thread') {
    line(w, depth, `for (i32 ${i} = range.begin; ${i} < range.end; ${step}) {`);
    block(w, depth + 1, s.body);
    line(w, depth, '}');
    return;
  }
  const [from, to] = [emitIndex(w, s.from), emitIndex(w, s.to)];
  if (s.to.kind === 'const') {
    line(w, depth, `for (i32 ${i} = ${from}; ${i} < ${to}; ${step}) {`);
  } else {
    // The bound is computed once: the body may change what it depends on.
    const end = w.name(`${s.variable} end`);
    line(w, depth, `for (i32 ${i} = ${from}, ${end} = ${to}; ${i} < ${end}; ${step}) {`);
  }
  block(w, depth + 1, s.body);
  line(w, depth, '}');
}

/**
 * In `main`: `for (Parts parts = split(thread, 240); take(&parts);)` and
 * `qkv_avx2(parts.range, from(arena, 12), from(weights, 3400), at(arena, 90), n);`.
 */
function call(w: Writer, depth: number, s: Extract<Stmt, { kind: 'call' }>): void {
  const fn = w.calls.get(s.fn);
  const extent = fn === undefined ? undefined : threadExtent(fn);
  if (fn === undefined || extent === undefined) {
    throw new LutraError('internal', `C target: main calls ${s.fn}, which is no kernel with a thread loop`);
  }
  const given = new Map(fn.scalars.map((p, i) => [p.name, s.scalars[i]]));
  const inCaller = (e: Expr): Expr =>
    e.kind === 'ref' ? (given.get(e.name) ?? e) : mapOperands(e, inCaller);
  const args = ['parts.range'];
  if (fn.locals.length > 0) args.push('thread->scratch');
  fn.buffers.forEach((param, i) => {
    const { buffer, offset } = s.buffers[i]!;
    args.push(`${param.access === 'read' ? 'from' : 'at'}(${w.name(buffer)}, ${emitExpr(w, offset)})`);
  });
  args.push(...s.scalars.map((e) => emitExpr(w, e)));
  line(w, depth, `for (Parts parts = split(thread, ${emitExpr(w, inCaller(extent))}); take(&parts);) {`);
  line(w, depth + 1, `${functionName(w.machine, fn)}(${args.join(', ')});`);
  line(w, depth, '}');
}

function bufferDeclaration(param: BufferParam, name: string, restrict: boolean): string {
  return `${param.access === 'read' ? 'const ' : ''}${elementType(param.elem)} *${restrict ? 'restrict ' : ''}${name}`;
}

/** What a kernel does with its parameters, in a line. */
function describe(fn: LoopFunction): string {
  const list = (wanted: (p: BufferParam) => boolean) =>
    fn.buffers.flatMap((p) => (wanted(p) ? [p.name] : [])).join(', ');
  const written = list((p) => p.access !== 'read') || 'nothing';
  const read = list((p) => p.access !== 'write') || 'nothing';
  const shared = threadLoop(fn);
  return `/* Writes ${written} from ${read}${shared === undefined ? '' : `; threads share the loop over ${shared.variable}`}. */`;
}

function newWriter(
  helpers: Helpers,
  machine: CMachine,
  fn: LoopFunction,
  reserved: readonly string[],
  calls: ReadonlyMap<string, LoopFunction>,
): Writer {
  return {
    helpers,
    machine,
    calls,
    name: nameTable(reserved),
    indices: indexNames(fn),
    used: usedNames(fn),
    lines: [],
  };
}

/** Writes the head, the body and, in between, `(void)` for parameters that nothing uses. */
function define(
  w: Writer,
  comment: string,
  head: string,
  parameters: readonly string[],
  fn: LoopFunction,
): string {
  line(w, 0, comment);
  line(w, 0, `${head}(${parameters.join(', ')}) {`);
  for (const p of [...fn.buffers, ...fn.scalars])
    if (!w.used.has(p.name)) line(w, 1, `(void)${w.name(p.name)};`);
  return w.lines.join('\n');
}

/** One kernel. Parameters that may be the same memory, by position, are not `restrict`. */
export function emitKernel(
  helpers: Helpers,
  machine: CMachine,
  fn: LoopFunction,
  aliased: ReadonlySet<number>,
): string {
  const w = newWriter(helpers, machine, fn, ['range', 'scratch'], new Map());
  const parameters = [
    'Range range',
    ...(fn.locals.length > 0 ? ['u8 *scratch'] : []),
    ...fn.buffers.map((p, i) => bufferDeclaration(p, w.name(p.name), !aliased.has(i))),
    ...fn.scalars.map((p) => `${p.kind} ${w.name(p.name)}`),
  ];
  define(w, describe(fn), `KERNEL ${isaMacro(machine.isa)}void ${functionName(machine, fn)}`, parameters, fn);
  if (threadLoop(fn) === undefined) line(w, 1, '(void)range;');
  let offset = 0;
  for (const local of fn.locals) {
    if (w.used.has(local.name)) {
      const type = elementType(local.elem);
      line(w, 1, `${type} *restrict const ${w.name(local.name)} = (${type} *)(scratch + ${offset});`);
    }
    offset += lineBytes(local.size * kindBytes(local.elem));
  }
  if (fn.locals.length > 0 && !fn.locals.some((l) => w.used.has(l.name))) line(w, 1, '(void)scratch;');
  block(w, 1, fn.body);
  line(w, 0, '}');
  return w.lines.join('\n');
}

/** The forward step, which every thread of the team runs. */
export function emitMain(helpers: Helpers, machine: CMachine, program: Program): string {
  const fn = program.main;
  const calls = new Map(program.functions.map((f) => [f.name, f]));
  const w = newWriter(
    helpers,
    machine,
    fn,
    ['thread', 'parts', 'split', 'take', 'barrier', 'at', 'from'],
    calls,
  );
  const parameters = [
    'Thread *thread',
    ...fn.buffers.map((p) => bufferDeclaration(p, w.name(p.name), false)),
    ...fn.scalars.map((p) => `${p.kind} ${w.name(p.name)}`),
  ];
  const comment = '/* One forward step; every thread of the team runs it. */';
  define(w, comment, `SHARED CALLS void main_${machine.isa}`, parameters, fn);
  if (![...statements(fn.body)].some((s) => s.kind === 'call' || s.kind === 'barrier')) {
    line(w, 1, '(void)thread;');
  }
  block(w, 1, fn.body);
  line(w, 0, '}');
  return w.lines.join('\n');
}
