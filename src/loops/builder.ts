import { LutraError } from '../common/errors.ts';
import { I32, int, ref } from './expr.ts';
import type {
  Binding,
  BufferParam,
  Expr,
  LoopFunction,
  ScalarKind,
  ScalarParam,
  StackBuffer,
  Stmt,
} from './ir.ts';
import { KEYWORDS } from './print.ts';

/** A buffer as the builder hands it out: knows its name and element kind. */
export interface BufferRef {
  readonly name: string;
  readonly elem: ScalarKind;
}

/**
 * Writes a loop function statement by statement.
 *
 * ```ts
 * const k = new FunctionBuilder('scale');
 * const x = k.buffer('x', 'f32', 'read');
 * const y = k.buffer('y', 'f32', 'write');
 * const n = k.scalar('n');
 * k.thread('i', n, (i) => k.store(y, i, mul(k.load(x, i), 2)));
 * const fn = k.build();
 * ```
 * Names are made unique by a suffix, so that a helper may reuse its own.
 */
export class FunctionBuilder {
  readonly #name: string;
  readonly #buffers: BufferParam[] = [];
  readonly #scalars: ScalarParam[] = [];
  readonly #locals: StackBuffer[] = [];
  readonly #used = new Map<string, number>([...KEYWORDS].map((word) => [word, 1]));
  readonly #registers = new Set<string>();
  #block: Stmt[] = [];

  constructor(name: string) {
    this.#name = name;
  }

  #fresh(name: string): string {
    const count = this.#used.get(name) ?? 0;
    this.#used.set(name, count + 1);
    return count === 0 ? name : this.#fresh(`${name}_${count}`);
  }

  buffer(name: string, elem: ScalarKind, access: BufferParam['access']): BufferRef {
    const unique = this.#fresh(name);
    this.#buffers.push({ name: unique, elem, access });
    return { name: unique, elem };
  }

  /** A scalar parameter, i32 unless said otherwise. */
  scalar(name: string, kind: ScalarParam['kind'] = 'i32'): Expr {
    const unique = this.#fresh(name);
    this.#scalars.push({ name: unique, kind });
    return ref(unique, { kind, lanes: 1 });
  }

  /** Scratch of `size` elements, private to the thread. */
  local(name: string, elem: ScalarKind, size: number): BufferRef {
    const unique = this.#fresh(name);
    this.#locals.push({ name: unique, elem, size });
    return { name: unique, elem };
  }

  load(buffer: BufferRef, index: Expr | number, lanes = 1): Expr {
    return {
      kind: 'load',
      buffer: buffer.name,
      index: typeof index === 'number' ? int(index) : index,
      type: { kind: buffer.elem, lanes },
    };
  }

  store(buffer: BufferRef, index: Expr | number, value: Expr): void {
    if (value.type.kind !== buffer.elem) {
      throw new LutraError(
        'internal',
        `loop IR: storing ${value.type.kind} into ${buffer.name}: ${buffer.elem}`,
      );
    }
    this.#block.push({
      kind: 'store',
      buffer: buffer.name,
      index: typeof index === 'number' ? int(index) : index,
      value,
    });
  }

  prefetch(buffer: BufferRef, index: Expr): void {
    this.#block.push({ kind: 'prefetch', buffer: buffer.name, index });
  }

  /**
   * Binds a value to a name and returns the reference. Constants and names that cannot change pass through;
   * of a register, the result is the value it has now.
   */
  let(name: string, value: Expr): Expr {
    if (value.kind === 'const' || (value.kind === 'ref' && !this.#registers.has(value.name))) return value;
    const unique = this.#fresh(name);
    this.#block.push({ kind: 'let', name: unique, value });
    return ref(unique, value.type);
  }

  /** A mutable register; assign to it with `set`. */
  var(name: string, init: Expr): Expr {
    const unique = this.#fresh(name);
    this.#registers.add(unique);
    this.#block.push({ kind: 'var', name: unique, init });
    return ref(unique, init.type);
  }

  set(target: Expr, value: Expr): void {
    if (target.kind !== 'ref') throw new LutraError('internal', 'loop IR: only a register can be assigned');
    this.#block.push({ kind: 'assign', name: target.name, value });
  }

  #nested(write: () => void): readonly Stmt[] {
    const outer = this.#block;
    this.#block = [];
    try {
      write();
      return this.#block;
    } finally {
      this.#block = outer;
    }
  }

  #loop(binding: Binding, name: string, from: Expr, to: Expr, step: number, body: (i: Expr) => void): void {
    const variable = this.#fresh(name);
    const inner = this.#nested(() => body(ref(variable, I32)));
    this.#block.push({ kind: 'for', variable, from, to, step, binding, body: inner });
  }

  for(name: string, from: Expr | number, to: Expr | number, step: number, body: (i: Expr) => void): void {
    const bound = (e: Expr | number) => (typeof e === 'number' ? int(e) : e);
    this.#loop('serial', name, bound(from), bound(to), step, body);
  }

  unrolled(name: string, from: number, to: number, step: number, body: (i: Expr) => void): void {
    this.#loop('unrolled', name, int(from), int(to), step, body);
  }

  /** The outermost loop, split among the threads of the team: iterations 0 .. to. */
  thread(name: string, to: Expr | number, body: (i: Expr) => void): void {
    this.#loop('thread', name, int(0), typeof to === 'number' ? int(to) : to, 1, body);
  }

  if(condition: Expr, whenTrue: () => void, whenFalse?: () => void): void {
    this.#block.push({
      kind: 'if',
      condition,
      whenTrue: this.#nested(whenTrue),
      whenFalse: whenFalse === undefined ? [] : this.#nested(whenFalse),
    });
  }

  call(
    fn: string,
    buffers: readonly { buffer: BufferRef; offset: Expr | number }[],
    scalars: readonly Expr[],
  ): void {
    this.#block.push({
      kind: 'call',
      fn,
      buffers: buffers.map(({ buffer, offset }) => ({
        buffer: buffer.name,
        offset: typeof offset === 'number' ? int(offset) : offset,
      })),
      scalars,
    });
  }

  barrier(): void {
    this.#block.push({ kind: 'barrier' });
  }

  build(): LoopFunction {
    return {
      name: this.#name,
      buffers: this.#buffers,
      scalars: this.#scalars,
      locals: this.#locals,
      body: this.#block,
    };
  }
}
