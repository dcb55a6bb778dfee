/** Statements of the loop IR as WebAssembly. */
import { LutraError } from '../../common/errors.ts';
import { kindBytes, LINE, type Stmt, typeBits } from '../../loops/ir.ts';
import { pushAddress, sumOfNames } from './address.ts';
import type { FunctionContext } from './context.ts';
import { TIMES_AT } from './layout.ts';

type Of<K extends Stmt['kind']> = Extract<Stmt, { kind: K }>;

/** What statements need to know beyond their function. */
export interface Surroundings {
  /** Locals with the part of the thread loop to run, in a kernel that has one. */
  readonly range?: { readonly begin: number; readonly end: number };
  /** In `main`: its team. */
  readonly team?: {
    readonly tid: number;
    readonly threads: number;
    /** Absent when the team is always one thread. */
    readonly barrier: number | undefined;
    /** The function that notes the time. */
    readonly mark: number;
    /** The functions that run a kernel by the whole team (share.ts), by its name. */
    readonly runs: ReadonlyMap<string, number>;
  };
}

/** Notes when a thread comes to a barrier and when it leaves it, where a profile is wanted. */
function noteTime(ctx: FunctionContext, mark: number): void {
  ctx.push('i32.const', 0);
  ctx.push('i32.load', 2, TIMES_AT);
  ctx.push('if');
  ctx.push('call', mark);
  ctx.push('end');
}

function store(ctx: FunctionContext, { buffer, index, value }: Of<'store'>): void {
  const { kind, lanes } = value.type;
  const size = kindBytes(kind);
  const align = Math.log2(size);
  const offset = pushAddress(ctx, buffer, index, size);
  ctx.value(value);
  if (lanes === 1) {
    if (kind === 'f32') ctx.push('f32.store', align, offset);
    else ctx.push(size === 4 ? 'i32.store' : size === 2 ? 'i32.store16' : 'i32.store8', align, offset);
    return;
  }
  const bits = typeBits(value.type);
  if (bits === 128) ctx.push('v128.store', align, offset);
  else ctx.push(`v128.store${bits as 16 | 32 | 64}_lane`, align, offset, 0);
}

function loop(ctx: FunctionContext, around: Surroundings, s: Of<'for'>): void {
  ctx.scope(() => {
    const { from, to, step, body } = s;
    const range = s.binding === 'thread' ? around.range : undefined;
    let pushEnd: () => void;
    if (range !== undefined) pushEnd = () => ctx.push('local.get', range.end);
    else if (to.kind === 'const') pushEnd = () => ctx.push('i32.const', to.value);
    else {
      const end = ctx.local('end', 'i32');
      ctx.value(to);
      ctx.push('local.set', end);
      pushEnd = () => ctx.push('local.get', end);
    }
    if (range === undefined) ctx.value(from);
    else ctx.push('local.get', range.begin);
    // The variable belongs to the loop: its depth is one more than where we are.
    const variable = ctx.local(s.variable, 'i32');
    ctx.push('local.set', variable);
    const certain =
      range === undefined && from.kind === 'const' && to.kind === 'const' && from.value < to.value;
    if (!certain) {
      ctx.push('local.get', variable);
      pushEnd();
      ctx.push('i32.lt_s');
      ctx.push('if');
    }
    ctx.loop(() => {
      ctx.names.set(s.variable, { kind: 'local', local: variable, depth: ctx.depth, mutable: false });
      emitBlock(ctx, around, body);
      ctx.push('local.get', variable);
      ctx.push('i32.const', step);
      ctx.push('i32.add');
      ctx.push('local.tee', variable);
      pushEnd();
      ctx.push('i32.lt_s');
      ctx.push('br_if', 0);
    });
    if (!certain) ctx.push('end');
  });
}

function call(ctx: FunctionContext, { team }: Surroundings, s: Of<'call'>): void {
  const run = team?.runs.get(s.fn);
  if (team === undefined || run === undefined) {
    throw new LutraError('internal', `wasm: ${s.fn} cannot be called here`);
  }
  ctx.scope(() => {
    for (const { buffer, offset } of s.buffers) {
      const rest = pushAddress(ctx, buffer, offset, LINE);
      ctx.push('i32.const', rest);
      ctx.push('i32.add');
    }
    for (const scalar of s.scalars) ctx.value(scalar);
    ctx.push('local.get', team.tid);
    ctx.push('local.get', team.threads);
    ctx.push('call', run);
  });
}

function statement(ctx: FunctionContext, around: Surroundings, s: Stmt): void {
  switch (s.kind) {
    case 'let': {
      const sum = sumOfNames(ctx, s.value);
      if (sum !== undefined) {
        ctx.names.set(s.name, { kind: 'sum', sum, depth: ctx.depth });
        return;
      }
      ctx.value(s.value);
      ctx.push('local.set', ctx.bind(s.name, s.value.type));
      break;
    }
    case 'var':
      ctx.value(s.init);
      ctx.push('local.set', ctx.bind(s.name, s.init.type, true));
      break;
    case 'assign':
      ctx.value(s.value);
      ctx.push('local.set', ctx.localOf(s.name));
      break;
    case 'store':
      store(ctx, s);
      break;
    case 'for':
      loop(ctx, around, s);
      break;
    case 'if':
      ctx.value(s.condition);
      ctx.push('if');
      emitBlock(ctx, around, s.whenTrue);
      if (s.whenFalse.length > 0) {
        ctx.push('else');
        emitBlock(ctx, around, s.whenFalse);
      }
      ctx.push('end');
      break;
    case 'prefetch':
      // WebAssembly has no such instruction.
      return;
    case 'call':
      call(ctx, around, s);
      break;
    case 'barrier':
      if (around.team?.barrier === undefined) return;
      noteTime(ctx, around.team.mark);
      ctx.push('local.get', around.team.tid);
      ctx.push('local.get', around.team.threads);
      ctx.push('call', around.team.barrier);
      noteTime(ctx, around.team.mark);
      break;
  }
}

export function emitBlock(ctx: FunctionContext, around: Surroundings, body: readonly Stmt[]): void {
  ctx.scope(() => {
    for (const s of body) statement(ctx, around, s);
  });
}
