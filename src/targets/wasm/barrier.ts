/**
 * The barrier of a team: threads count themselves in, the last one starts the next generation. The others
 * look at the generation for a while, since kernels of equal shares end nearly together, and then sleep:
 * on a busy machine a thread that keeps looking takes the processor from the one it waits for. Where looking was in
 * vain several times in a row, it is only tried now and then.
 *
 * ```
 * generation = GENERATION                      // before being counted: it cannot move on without us
 * if (ARRIVED++ == threads - 1) {
 *   ARRIVED = 0; GENERATION++
 *   if (SLEEPERS != 0) notify(GENERATION)
 * } else {
 *   if (VAIN[tid] < VAIN_SPINS || VAIN[tid] % SPIN_EVERY == 0)
 *     repeat SPINS times:
 *       if (GENERATION != generation) { VAIN[tid] = 0; return }
 *       pause
 *   VAIN[tid]++
 *   SLEEPERS++
 *   while (GENERATION == generation) wait(GENERATION, generation)
 *   SLEEPERS--
 * }
 * ```
 * A sleeper that counts itself in after the last thread has looked finds the generation changed: `wait`
 * compares before it sleeps, and all of these are sequentially consistent.
 */
import { ARRIVED_AT, GENERATION_AT, PAUSE_AT, SLEEPERS_AT, THREAD_BYTES, VAIN_AT } from './layout.ts';
import type { Instr, WasmFunction } from './module.ts';

/** About 60 microseconds: somewhat more than to sleep and be woken, and than what one thread computes by itself. */
const SPINS = 8000;
const VAIN_SPINS = 4;
/** A power of two. */
const SPIN_EVERY = 16;

export function barrierFunction(): WasmFunction {
  const [tid, threads, generation, spins, own] = [0, 1, 2, 3, 4];
  const load = (at: number): Instr[] => [
    ['i32.const', 0],
    ['i32.atomic.load', 2, at],
  ];
  const add = (at: number, value: number): Instr[] => [
    ['i32.const', 0],
    ['i32.const', value],
    ['i32.atomic.rmw.add', 2, at],
  ];
  const loadVain: Instr[] = [
    ['local.get', own],
    ['i32.load', 2, VAIN_AT],
  ];
  const body: Instr[] = [
    ['local.get', threads],
    ['i32.const', 1],
    ['i32.eq'],
    ['if'],
    ['return'],
    ['end'],
    ...load(GENERATION_AT),
    ['local.set', generation],
    ...add(ARRIVED_AT, 1),
    ['i32.const', 1],
    ['i32.add'],
    ['local.get', threads],
    ['i32.eq'],
    ['if'],
    ['i32.const', 0],
    ['i32.const', 0],
    ['i32.atomic.store', 2, ARRIVED_AT],
    ...add(GENERATION_AT, 1),
    ['drop'],
    ...load(SLEEPERS_AT),
    ['if'],
    ['i32.const', 0],
    ['i32.const', -1],
    ['memory.atomic.notify', 2, GENERATION_AT],
    ['drop'],
    ['end'],
    ['return'],
    ['end'],
    ['local.get', tid],
    ['i32.const', Math.log2(THREAD_BYTES)],
    ['i32.shl'],
    ['local.set', own],
    ...loadVain,
    ['i32.const', VAIN_SPINS],
    ['i32.lt_s'],
    ...loadVain,
    ['i32.const', SPIN_EVERY - 1],
    ['i32.and'],
    ['i32.eqz'],
    ['i32.or'],
    ['if'],
    ['i32.const', SPINS],
    ['local.set', spins],
    ['loop'],
    ...load(GENERATION_AT),
    ['local.get', generation],
    ['i32.ne'],
    ['if'],
    ['local.get', own],
    ['i32.const', 0],
    ['i32.store', 2, VAIN_AT],
    ['return'],
    ['end'],
    // There is no pause instruction; this takes as long and leaves the core to its other thread.
    ['local.get', own],
    ['i32.const', 0],
    ['i32.atomic.rmw.add', 2, PAUSE_AT],
    ['drop'],
    ['local.get', spins],
    ['i32.const', 1],
    ['i32.sub'],
    ['local.tee', spins],
    ['br_if', 0],
    ['end'],
    ['end'],
    ['local.get', own],
    ...loadVain,
    ['i32.const', 1],
    ['i32.add'],
    ['i32.store', 2, VAIN_AT],
    ...add(SLEEPERS_AT, 1),
    ['drop'],
    ['loop'],
    ['i32.const', 0],
    ['local.get', generation],
    ['i64.const', -1],
    ['memory.atomic.wait32', 2, GENERATION_AT],
    ['drop'],
    ...load(GENERATION_AT),
    ['local.get', generation],
    ['i32.eq'],
    ['br_if', 0],
    ['end'],
    ...add(SLEEPERS_AT, -1),
    ['drop'],
  ];
  const i32 = (name: string) => ({ name, type: 'i32' as const });
  return {
    name: 'barrier',
    params: [i32('tid'), i32('threads')],
    locals: [i32('generation'), i32('spins'), i32('own')],
    body,
    exported: false,
  };
}
