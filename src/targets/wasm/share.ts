/**
 * How a team runs a kernel. Each thread has a share of its thread loop, in parts that it takes one after the other;
 * when none is left it takes those that other threads have not come to, so that one that lost its core, or has not
 * woken up yet, holds up nobody for more than a part.
 *
 * ```
 * run(buffers ..., scalars ..., tid, threads):
 *   total = iterations of the loop
 *   if (threads == 1) return kernel(..., 0, total)
 *   call = CALLS[tid] += 256                     // the same in every thread that has come as far
 *   for (distance = 0; distance < threads; distance++)
 *     owner = (tid + distance) % threads
 *     begin = total * owner / threads; size = total * (owner + 1) / threads - begin
 *     count = min(size, PARTS)
 *     repeat
 *       taken = TAKEN[owner]                     // a call, and how many of its parts
 *       part = max(taken - call, 0)              // its owner may not have come to this call yet,
 *       if (part >= count) break                 // or be in a later one, when all of this is taken
 *       if (compareAndSwap(TAKEN[owner], taken, call + part + 1))
 *         kernel(..., begin + size * part / count, begin + size * (part + 1) / count)
 * ```
 */
import type { FunctionContext } from './context.ts';
import { CALLS_AT, TAKEN_AT, THREAD_BYTES } from './layout.ts';

/** Parts of a share; less than 256. */
const PARTS = 8;

/** Pushes floor(a * b / c), in 64 bits as the product may not fit. */
function pushMulDiv(ctx: FunctionContext, a: number, pushB: () => void, c: number): void {
  ctx.push('local.get', a);
  ctx.push('i64.extend_i32_s');
  pushB();
  ctx.push('i64.extend_i32_s');
  ctx.push('i64.mul');
  ctx.push('local.get', c);
  ctx.push('i64.extend_i32_s');
  ctx.push('i64.div_s');
  ctx.push('i32.wrap_i64');
}

export interface Shared {
  /** Pushes the number of iterations of the kernel's thread loop. */
  pushTotal(): void;
  /** Pushes the kernel's arguments but for the range of its thread loop. */
  pushArguments(): void;
  /** The kernel's number among the functions. */
  readonly kernel: number;
  /** Locals. */
  readonly tid: number;
  readonly threads: number;
  /** Whether there can be other threads at all. */
  readonly team: boolean;
}

export function writeShares(ctx: FunctionContext, s: Shared): void {
  const get = (local: number) => ctx.push('local.get', local);
  const set = (local: number) => ctx.push('local.set', local);
  const constant = (value: number) => ctx.push('i32.const', value);
  const total = ctx.local('total', 'i32');
  s.pushTotal();
  set(total);
  const whole = () => {
    s.pushArguments();
    constant(0);
    get(total);
    ctx.push('call', s.kernel);
  };
  if (!s.team) {
    whole();
    return;
  }

  const [call, distance, owner, begin, size, count, taken, part] = [
    'call',
    'distance',
    'owner',
    'begin',
    'size',
    'count',
    'taken',
    'part',
  ].map((name) => ctx.local(name, 'i32')) as [number, number, number, number, number, number, number, number];
  const plusOne = (local: number) => () => {
    get(local);
    constant(1);
    ctx.push('i32.add');
  };
  /** Pushes where the words of a thread begin. */
  const place = (thread: number) => {
    get(thread);
    constant(Math.log2(THREAD_BYTES));
    ctx.push('i32.shl');
  };

  get(s.threads);
  constant(1);
  ctx.push('i32.eq');
  ctx.push('if');
  whole();
  ctx.push('return');
  ctx.push('end');

  place(s.tid);
  place(s.tid);
  ctx.push('i32.load', 2, CALLS_AT);
  constant(256);
  ctx.push('i32.add');
  ctx.push('local.tee', call);
  ctx.push('i32.store', 2, CALLS_AT);

  constant(0);
  set(distance);
  ctx.push('loop');
  get(s.tid);
  get(distance);
  ctx.push('i32.add');
  get(s.threads);
  ctx.push('i32.rem_s');
  set(owner);
  pushMulDiv(ctx, total, () => get(owner), s.threads);
  set(begin);
  pushMulDiv(ctx, total, plusOne(owner), s.threads);
  get(begin);
  ctx.push('i32.sub');
  ctx.push('local.tee', size);
  constant(PARTS);
  get(size);
  constant(PARTS);
  ctx.push('i32.lt_s');
  ctx.push('select');
  set(count);

  ctx.push('loop');
  place(owner);
  ctx.push('i32.atomic.load', 2, TAKEN_AT);
  ctx.push('local.tee', taken);
  get(call);
  ctx.push('i32.sub');
  ctx.push('local.tee', part);
  constant(0);
  constant(0);
  get(part);
  ctx.push('i32.lt_s');
  ctx.push('select');
  ctx.push('local.tee', part);
  get(count);
  ctx.push('i32.lt_s');
  ctx.push('if');
  place(owner);
  get(taken);
  get(call);
  get(part);
  ctx.push('i32.add');
  constant(1);
  ctx.push('i32.add');
  ctx.push('i32.atomic.rmw.cmpxchg', 2, TAKEN_AT);
  get(taken);
  ctx.push('i32.eq');
  ctx.push('if');
  s.pushArguments();
  for (const pushPart of [() => get(part), plusOne(part)]) {
    get(begin);
    pushMulDiv(ctx, size, pushPart, count);
    ctx.push('i32.add');
  }
  ctx.push('call', s.kernel);
  ctx.push('end');
  ctx.push('br', 1);
  ctx.push('end');
  ctx.push('end');

  plusOne(distance)();
  ctx.push('local.tee', distance);
  get(s.threads);
  ctx.push('i32.lt_s');
  ctx.push('br_if', 0);
  ctx.push('end');
}
