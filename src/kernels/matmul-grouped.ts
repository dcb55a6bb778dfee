import { BLOCK_ROWS } from '../encodings/grouped-rows.ts';
import { FunctionBuilder } from '../loops/builder.ts';
import type { LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { defaultFirst, type Kernel } from './kernel.ts';
import {
  blockRows,
  groupedParams,
  type MatmulGroupedSchedule,
  type MatmulGroupedShape,
  STEP,
} from './matmul/grouped.ts';
import { writeScalar } from './matmul/grouped-scalar.ts';
import { writeRows } from './matmul/grouped-vector.ts';

function build(name: string, shape: MatmulGroupedShape, s: MatmulGroupedSchedule): LoopFunction {
  const b = new FunctionBuilder(name);
  const p = groupedParams(b, shape);
  const { multiply } = s;
  if (multiply === 'scalar') writeScalar(b, p, shape);
  else b.thread('blockRow', blockRows(shape), (row) => writeRows(b, p, shape, { ...s, multiply }, row));
  return b.build();
}

function defaultSchedule(
  { bits, group, planes }: MatmulGroupedShape,
  machine: Machine,
): MatmulGroupedSchedule {
  const { native, vectorBytes, dotCodeMax } = machine;
  if (vectorBytes === 4) return { multiply: 'scalar', rows: 1, tokens: 1, unroll: 1, prefetchBytes: 0 };
  const multiply = native.has('dot4') && dotCodeMax >= 63 ? 'dot4' : native.has('dot2') ? 'dot2' : 'madd';
  // V8 loads all operands of an iteration before it computes: there must be room for them. Less than 8 rows would leave
  // it no pairs of vectors to join; `madd`, which wants most room, was 1.2 to 1.4 times as fast with 4.
  if (vectorBytes === 16) {
    const rows = bits === 4 ? BLOCK_ROWS : multiply === 'madd' ? 4 : 8;
    return { multiply, rows, tokens: 1, unroll: 1, prefetchBytes: 0 };
  }
  return { multiply, rows: BLOCK_ROWS, tokens: 4 / planes, unroll: group / STEP[bits], prefetchBytes: 512 };
}

function schedules(shape: MatmulGroupedShape, machine: Machine): readonly MatmulGroupedSchedule[] {
  const base = defaultSchedule(shape, machine);
  const whole = shape.group / STEP[shape.bits];
  const all = [0, 512].flatMap((prefetchBytes) =>
    [1, whole].flatMap((unroll) =>
      [1, 4].flatMap((tokens) =>
        [Math.min(8, base.rows), BLOCK_ROWS].map((rows) => ({
          ...base,
          rows,
          tokens,
          unroll,
          prefetchBytes,
        })),
      ),
    ),
  );
  return machine.vectorBytes === 4 ? [base] : defaultFirst(base, all);
}

/**
 * Rows of 4 or 6 bits with a scale for every group of columns (src/encodings/grouped-rows.ts) by activations that
 * `matmul.quantize` made: the output head. Rows are lanes, activations are broadcast. Sums of a group are exact;
 * the groups add up in order, so that every schedule and machine gives the same bits.
 */
export const matmulGrouped: Kernel<MatmulGroupedShape, MatmulGroupedSchedule> = {
  op: 'matmul',
  family: 'grouped',
  defaultSchedule,
  schedules,
  build,
};
