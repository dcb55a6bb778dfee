/**
 * Rewrites a function until every value fits the registers of a machine and every instruction is one it has.
 *
 * ```
 * before, for 32-byte registers           after
 *   let c = w[i +: 64] & u8x64(3)           let c_0 = w[i +: 32] & u8x32(3)
 *                                           let c_1 = w[i + 32 +: 32] & u8x32(3)
 *   let a = repeat(q[k +: 4], 16)           let t = repeat(q[k +: 4], 8)          both pieces of a
 *   acc = dot4(acc, c, a, 3)                acc_0 = acc_0 + madd(dot2(c_0, t, 3), i16x16(1))
 *                                           acc_1 = acc_1 + madd(dot2(c_1, t, 3), i16x16(1))
 * ```
 *
 * What holds afterwards is what `checkLegal` checks:
 * - unrolled loops are written out;
 * - lanes are powers of two and no value is larger than a register; on a machine without vectors, every value
 *   is a scalar;
 * - dot2, madd, dot4, lookups and averageRound appear only where native, the dots with codes up to
 *   `dotCodeMax`; casts between f16 and f32 only where 'f16' is; casts to bf16 never;
 * - concat has two parts; reduce is written out (a slice of one lane is that scalar).
 *
 * Results are those of the original, bit for bit (NaNs as NaNs).
 */

import * as x from './expr.ts';
import type { LoopFunction } from './ir.ts';
import { createEmitter } from './legalize/emitter.ts';
import { lowerBlock } from './legalize/statements.ts';
import type { Machine } from './machine.ts';

export function legalize(fn: LoopFunction, machine: Machine): LoopFunction {
  const emitter = createEmitter(fn, machine);
  for (const { name, kind } of fn.scalars) emitter.define(name, [x.ref(name, { kind, lanes: 1 })]);
  const body = emitter.block(() => lowerBlock(emitter, fn.body));
  return { ...fn, locals: [...fn.locals, ...emitter.addedLocals], body };
}
