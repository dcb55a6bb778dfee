import { BLOCK_ROWS, blockBytes, blockCodeBytes, zeroCode } from '../../encodings/grouped-rows.ts';
import type { FunctionBuilder } from '../../loops/builder.ts';
import { add, and, bitcast, cast, float, mul, shift, vector } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { groupsOf, PLANE_BITS, planesStride } from '../matmul-quantize.ts';
import {
  blockRowBytes,
  blockRows,
  FIELD,
  type GroupedParams,
  type MatmulGroupedShape,
  STEP,
  storeRows,
} from './grouped.ts';

/** The codes of one row of a step, 4 columns after the other, as scalars. */
function scalarCodes(
  b: FunctionBuilder,
  { bits }: MatmulGroupedShape,
  p: GroupedParams,
  at: Expr,
): readonly Expr[] {
  const four = [0, 1, 2, 3];
  const bytes = (v: number) =>
    four.map((j) => b.let('byte', cast(b.load(p.table, add(at, v * FIELD + j)), 'i32')));
  const first = bytes(0);
  if (bits === 4) return [...first.map((e) => and(e, 15)), ...first.map((e) => shift('right', e, 4))];
  const parts = [first, bytes(1), bytes(2)];
  const top = four.map((j) =>
    parts.map((part, v) => shift('left', shift('right', part[j]!, 6), 2 * v)).reduce((a, e) => add(a, e)),
  );
  return [...parts.flat().map((e) => and(e, 63)), ...top];
}

/** The product without vectors, in little code. Rows are the innermost loop, which C compilers vectorize. */
export function writeScalar(b: FunctionBuilder, p: GroupedParams, shape: MatmulGroupedShape): void {
  const { bits, group, planes } = shape;
  const dots = b.local('dots', 'f32', BLOCK_ROWS);
  const sums = b.local('sums', 'i32', BLOCK_ROWS);
  const groups = groupsOf(shape);
  const stepBytes = (STEP[bits] * BLOCK_ROWS * bits) / 8;
  b.thread('blockRow', blockRows(shape), (blockRow) => {
    const start = b.let('start', mul(blockRow, blockRowBytes(shape)));
    b.for('token', 0, p.n, 1, (token) => {
      const x = b.let('x', mul(token, planesStride(shape)));
      b.for('row', 0, BLOCK_ROWS, 1, (row) => b.store(dots, row, float(0)));
      b.for('g', 0, groups, 1, (g) => {
        const block = b.let('block', add(start, mul(g, blockBytes(shape))));
        const own = b.let('own', add(mul(token, rowStride(groups)), g));
        const less = b.let('less', mul(b.load(p.sum, own), -zeroCode(shape)));
        b.for('row', 0, BLOCK_ROWS, 1, (row) => b.store(sums, row, less));
        b.for('step', 0, group / STEP[bits], 1, (step) => {
          const from = b.let('from', add(add(x, mul(g, planes * group)), mul(step, STEP[bits])));
          const whole = Array.from({ length: STEP[bits] }, (_, i) => {
            const plane = (v: number) => cast(b.load(p.q, add(from, v * group + i)), 'i32');
            return b.let(
              'whole',
              planes === 1 ? plane(0) : add(shift('left', plane(0), PLANE_BITS), plane(1)),
            );
          });
          const codesAt = b.let('codesAt', add(block, mul(step, stepBytes)));
          b.for('row', 0, BLOCK_ROWS, 1, (row) => {
            const codes = scalarCodes(b, shape, p, b.let('at', add(codesAt, mul(row, 4))));
            const terms = codes.map((code, i) => mul(code, whole[i]!));
            b.store(
              sums,
              row,
              terms.reduce((total, term) => add(total, term), b.load(sums, row)),
            );
          });
        });
        const factor = b.let('factor', b.load(p.factor, own));
        b.for('row', 0, BLOCK_ROWS, 1, (row) => {
          const scaleAt = add(add(block, blockCodeBytes(shape)), mul(row, 2));
          const scale = cast(bitcast(b.load(p.table, scaleAt, 2), vector('bf16', 1)), 'f32');
          const term = mul(cast(b.load(sums, row), 'f32'), mul(scale, factor));
          b.store(dots, row, add(b.load(dots, row), term));
        });
      });
      b.for('row', 0, BLOCK_ROWS, 1, (row) => {
        const to = b.let('to', add(mul(blockRow, BLOCK_ROWS), row));
        storeRows(b, p, shape, token, to, b.load(dots, row));
      });
    });
  });
}
