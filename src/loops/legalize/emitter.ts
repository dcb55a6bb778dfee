import * as x from '../expr.ts';
import type { Expr, LoopFunction, StackBuffer, Stmt } from '../ir.ts';
import type { Machine } from '../machine.ts';
import { printExpr } from '../print.ts';
import { operands } from '../walk.ts';

/** The legal values that together hold the lanes of one value, in order. */
export type Pieces = readonly Expr[];

/** Where legal code is written: the current block, its names, and what is known to be computed already. */
export interface Emitter {
  readonly machine: Machine;
  /** Scratch memory that the new code needs besides the function's own. */
  readonly addedLocals: readonly StackBuffer[];
  emit(statement: Stmt): void;
  /** A name no one has, made from this one. */
  fresh(name: string): string;
  /** Runs `write` and returns the statements it emits as a block of their own. */
  block(write: () => void): readonly Stmt[];

  /** Makes a name of the source mean these pieces. */
  define(name: string, pieces: Pieces): void;
  piecesOf(name: string): Pieces;
  declareRegister(name: string): void;
  /** Whether the value may be written several times instead of bound: a constant or an unchanging name. */
  isLeaf(e: Expr): boolean;
  /** Binds a value that is used more than once; equal values that cannot have changed share one name. */
  share(e: Expr, name?: string): Expr;
  /** A name for a value of any width, for expansions that use it more than once. */
  bind(type: Expr['type'], pieces: Pieces): Expr;
  /** Whether two buffers can be the same memory: two parameters of one kind can, the own arrays cannot. */
  mayOverlap(a: string, b: string): boolean;
  /** Scratch memory for `key`, made and filled at first need and found again while the block lasts. */
  scratch(key: Expr, local: Omit<StackBuffer, 'name'>, fill: (name: string) => void): string;
}

export function createEmitter(fn: LoopFunction, machine: Machine): Emitter {
  const taken = new Set([...fn.buffers, ...fn.scalars, ...fn.locals].map((param) => param.name));
  const parameters = new Map(fn.buffers.map((param) => [param.name, param.elem]));
  const suffixes = new Map<string, number>();
  const registers = new Set<string>();
  const environment = new Map<string, Pieces>();
  const addedLocals: StackBuffer[] = [];
  let current: Stmt[] = [];
  /** What the enclosing blocks have bound already, innermost last; keyed by the text of the value. */
  let known: Map<string, string>[] = [new Map()];
  let wide = 0;

  const fresh = (name: string): string => {
    let unique = name;
    while (taken.has(unique)) {
      const count = (suffixes.get(name) ?? 0) + 1;
      suffixes.set(name, count);
      unique = `${name}_${count}`;
    }
    taken.add(unique);
    return unique;
  };

  const isLeaf = (e: Expr): boolean => e.kind === 'const' || (e.kind === 'ref' && !registers.has(e.name));

  /** Whether the value stays the same until its block ends. */
  const isLasting = (e: Expr): boolean => {
    if (e.kind === 'load' || (e.kind === 'ref' && registers.has(e.name))) return false;
    return operands(e).every(isLasting);
  };

  const recall = (key: string): string | undefined => {
    for (const level of known) {
      const name = level.get(key);
      if (name !== undefined) return name;
    }
    return undefined;
  };

  const emitter: Emitter = {
    machine,
    addedLocals,
    fresh,
    isLeaf,
    emit(statement) {
      current.push(statement);
    },
    block(write) {
      const [outer, outerKnown] = [current, known];
      [current, known] = [[], [...known, new Map()]];
      write();
      const body = current;
      [current, known] = [outer, outerKnown];
      return body;
    },
    define(name, pieces) {
      environment.set(name, pieces);
    },
    piecesOf(name) {
      return environment.get(name)!;
    },
    declareRegister(name) {
      registers.add(name);
    },
    share(e, name = 'tmp') {
      if (isLeaf(e)) return e;
      const key = isLasting(e) ? `${e.type.kind} ${printExpr(e)}` : undefined;
      const same = key === undefined ? undefined : recall(key);
      if (same !== undefined) return x.ref(same, e.type);
      const unique = fresh(name);
      current.push({ kind: 'let', name: unique, value: e });
      if (key !== undefined) known.at(-1)!.set(key, unique);
      return x.ref(unique, e.type);
    },
    bind(type, pieces) {
      // Not a name that could be written, so that it cannot meet one of the source.
      const name = `#${wide++}`;
      environment.set(
        name,
        pieces.map((piece) => emitter.share(piece)),
      );
      return x.ref(name, type);
    },
    mayOverlap(a, b) {
      return a === b || (parameters.has(a) && parameters.get(a) === parameters.get(b));
    },
    scratch(key, local, fill) {
      const text = `scratch ${printExpr(key)}`;
      const same = isLasting(key) ? recall(text) : undefined;
      if (same !== undefined) return same;
      const name = fresh('scratch');
      addedLocals.push({ name, ...local });
      fill(name);
      if (isLasting(key)) known.at(-1)!.set(text, name);
      return name;
    },
  };
  return emitter;
}

/** Whether an expression reads one of these names. */
export function mentions(e: Expr, names: ReadonlySet<string>): boolean {
  return (e.kind === 'ref' && names.has(e.name)) || operands(e).some((operand) => mentions(operand, names));
}
