/**
 * The barrier of a team: threads count themselves in, the last one starts the next generation. The others
 * look at the generation for a while, since kernels of equal shares end nearly together, and then sleep:
 * on a busy machine a thread that keeps looking takes the processor from the one it waits for.
 *
 * ```
 * generation = GENERATION                      // before being counted: it cannot move on without us
 * if (ARRIVED++ == threads - 1) {
 *   ARRIVED = 0; GENERATION++
 *   if (SLEEPERS != 0) notify(GENERATION)
 * } else {
 *   repeat SPINS times: if (GENERATION != generation) return
 *   SLEEPERS++
 *   while (GENERATION == generation) wait(GENERATION, generation)
 *   SLEEPERS--
 * }
 * ```
 * A sleeper that counts itself in after the last thread has looked finds the generation changed: `wait`
 * compares before it sleeps, and all of these are sequentially consistent.
 */
import { ARRIVED_AT, GENERATION_AT, SLEEPERS_AT } from './layout.ts';
import type { Instr, WasmFunction } from './module.ts';

/** About 20 microseconds, what going to sleep and being woken costs: at worst a wait takes twice that. */
const SPINS = 20_000;

export function barrierFunction(): WasmFunction {
  const [threads, generation, spins] = [0, 1, 2];
  const load = (at: number): Instr[] => [
    ['i32.const', 0],
    ['i32.atomic.load', 2, at],
  ];
  const add = (at: number, value: number): Instr[] => [
    ['i32.const', 0],
    ['i32.const', value],
    ['i32.atomic.rmw.add', 2, at],
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
    ['i32.const', SPINS],
    ['local.set', spins],
    ['loop'],
    ...load(GENERATION_AT),
    ['local.get', generation],
    ['i32.ne'],
    ['if'],
    ['return'],
    ['end'],
    ['local.get', spins],
    ['i32.const', 1],
    ['i32.sub'],
    ['local.tee', spins],
    ['br_if', 0],
    ['end'],
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
  return {
    name: 'barrier',
    params: [{ name: 'threads', type: 'i32' }],
    locals: [
      { name: 'generation', type: 'i32' },
      { name: 'spins', type: 'i32' },
    ],
    body,
    exported: false,
  };
}
