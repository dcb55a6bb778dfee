/** What is being written while one function is emitted: its code so far, its locals, the loops around. */
import { LutraError } from '../../common/errors.ts';
import type { Expr, ValueType } from '../../loops/ir.ts';
import type { Linear } from './linear.ts';
import type { Instr, ValType, WasmLocal } from './module.ts';
import type { OpName } from './opcodes.ts';

/** How a value lives in WebAssembly: small scalars extended to an i32, vectors in the low bytes of a v128. */
export function valType(type: ValueType): ValType {
  if (type.lanes > 1) return 'v128';
  return type.kind === 'f32' ? 'f32' : 'i32';
}

/**
 * A name of the loop IR in scope: what a local holds, or a sum over immutable names that stands for it
 * wherever it is used. `depth` counts the loops around its definition.
 */
export type Binding =
  | { readonly kind: 'local'; readonly local: number; readonly depth: number; readonly mutable: boolean }
  | { readonly kind: 'sum'; readonly sum: Linear; readonly depth: number };

/** A buffer: a local with a byte address, and a constant distance from it. */
export interface BufferBase {
  readonly local: number;
  readonly offset: number;
}

interface Loop {
  /** Code that runs once, before the loop. */
  readonly preheader: Instr[];
  /** Locals that the preheader sets, by what they hold. */
  readonly hoisted: Map<string, number>;
  readonly locals: { readonly local: number; readonly type: ValType }[];
}

/** Emits expressions; handed in, because expressions of all kinds contain one another. */
export interface ExprEmitter {
  /** Pushes the value as `valType` says. */
  value(ctx: FunctionContext, e: Expr): void;
  /** Pushes the value as a v128; a scalar in every lane. */
  vector(ctx: FunctionContext, e: Expr): void;
}

export class FunctionContext {
  readonly params: readonly WasmLocal[];
  /** Whether relaxed SIMD may be used. */
  readonly relaxed: boolean;
  readonly names = new Map<string, Binding>();
  readonly buffers = new Map<string, BufferBase>();
  readonly locals: WasmLocal[] = [];
  readonly #emitter: ExprEmitter;
  readonly #addressOf: (constant: readonly number[]) => number;
  readonly #prologue: Instr[] = [];
  readonly #pooled = new Map<string, number>();
  readonly #free: Record<ValType, number[]> = { i32: [], i64: [], f32: [], v128: [] };
  #scope: { readonly local: number; readonly type: ValType }[] = [];
  /** Of every scope around the current point, locals with what it has computed, by what they hold. */
  #computed: Map<string, number>[] = [new Map()];
  #loops: Loop[] = [];
  #code: Instr[] = [];

  /** `addressOf` places a v128 constant in the module's pool. */
  constructor(
    params: readonly WasmLocal[],
    emitter: ExprEmitter,
    options: { relaxed: boolean; addressOf: (constant: readonly number[]) => number },
  ) {
    this.params = params;
    this.relaxed = options.relaxed;
    this.#emitter = emitter;
    this.#addressOf = options.addressOf;
  }

  push(op: OpName, ...args: number[]): void {
    this.#code.push([op, ...args]);
  }

  value(e: Expr): void {
    this.#emitter.value(this, e);
  }

  vector(e: Expr): void {
    this.#emitter.vector(this, e);
  }

  /** Loops around the current point. */
  get depth(): number {
    return this.#loops.length;
  }

  binding(name: string): Binding {
    const found = this.names.get(name);
    if (found === undefined) throw new LutraError('internal', `wasm: ${name} is not bound`);
    return found;
  }

  /** The local of a name that is not a sum. */
  localOf(name: string): number {
    const binding = this.binding(name);
    if (binding.kind === 'sum') throw new LutraError('internal', `wasm: ${name} has no local`);
    return binding.local;
  }

  buffer(name: string): BufferBase {
    const found = this.buffers.get(name);
    if (found === undefined) throw new LutraError('internal', `wasm: no buffer ${name}`);
    return found;
  }

  #fresh(name: string, type: ValType): number {
    this.locals.push({ name, type });
    return this.params.length + this.locals.length - 1;
  }

  /** A local until the scope ends; perhaps one that an ended scope has left. */
  local(name: string, type: ValType): number {
    const local = this.#free[type].pop() ?? this.#fresh(name, type);
    this.#scope.push({ local, type });
    return local;
  }

  /** Runs `write`, then gives its locals back. */
  scope(write: () => void): void {
    const outer = this.#scope;
    this.#scope = [];
    this.#computed.push(new Map());
    write();
    this.#computed.pop();
    for (const { local, type } of this.#scope) this.#free[type].push(local);
    this.#scope = outer;
  }

  /**
   * Pushes what `write` pushes, computed once in a scope. `key` identifies the value, which must not change as long
   * as the scope lasts.
   */
  shared(key: string, type: ValType, write: () => void): void {
    for (const computed of this.#computed) {
      const known = computed.get(key);
      if (known !== undefined) {
        this.push('local.get', known);
        return;
      }
    }
    write();
    const local = this.local('shared', type);
    this.#computed.at(-1)!.set(key, local);
    this.push('local.tee', local);
  }

  /** Binds a name to a local of its own until the scope ends. */
  bind(name: string, type: ValueType, mutable = false): number {
    const local = this.local(name, valType(type));
    this.names.set(name, { kind: 'local', local, depth: this.depth, mutable });
    return local;
  }

  /** A WebAssembly loop around what `body` writes, after whatever the body hoists out of itself. */
  loop(body: () => void): void {
    const loop: Loop = { preheader: [], hoisted: new Map(), locals: [] };
    const outer = this.#code;
    this.#code = [];
    this.#loops.push(loop);
    this.scope(body);
    this.#loops.pop();
    for (const instr of loop.preheader) outer.push(instr);
    outer.push(['loop']);
    for (const instr of this.#code) outer.push(instr);
    outer.push(['end']);
    this.#code = outer;
    for (const { local, type } of loop.locals) this.#free[type].push(local);
  }

  /**
   * A local that holds what `write` pushes, computed before the loop at `depth` (0 is the outermost).
   * `key` identifies the value within that loop.
   */
  hoist(depth: number, key: string, type: ValType, write: () => void): number {
    const loop = this.#loops[depth]!;
    const known = loop.hoisted.get(key);
    if (known !== undefined) return known;
    // Never a local that the loop's body has used before: each iteration would overwrite it.
    const local = this.#fresh('hoisted', type);
    loop.hoisted.set(key, local);
    loop.locals.push({ local, type });
    const code = this.#code;
    const loops = this.#loops;
    const computed = this.#computed;
    this.#code = loop.preheader;
    this.#loops = loops.slice(0, depth);
    // What has been computed here has not been there.
    this.#computed = [];
    this.scope(write);
    this.push('local.set', local);
    this.#code = code;
    this.#loops = loops;
    this.#computed = computed;
    return local;
  }

  /**
   * Pushes a v128 constant. Engines build one in several instructions, each time a loop comes by; within
   * loops it is therefore a local, loaded from the constant pool when the function is entered.
   */
  constant(bytes: readonly number[]): void {
    const uniform = bytes.every((byte) => byte === bytes[0]);
    const cheap = uniform && (bytes[0] === 0 || bytes[0] === 0xff);
    if (this.depth === 0 || cheap) {
      this.push('v128.const', ...bytes);
      return;
    }
    const key = bytes.join(' ');
    let local = this.#pooled.get(key);
    if (local === undefined) {
      local = this.#fresh('constant', 'v128');
      this.#pooled.set(key, local);
      const load: Instr = bytes.every((byte, i) => byte === bytes[i % 4])
        ? ['v128.load32_splat', 2, 0]
        : ['v128.load', 4, 0];
      this.#prologue.push(['i32.const', this.#addressOf(bytes)], load, ['local.set', local]);
    }
    this.push('local.get', local);
  }

  /** All the code, loads of pooled constants first. */
  body(): readonly Instr[] {
    return [...this.#prologue, ...this.#code];
  }
}
