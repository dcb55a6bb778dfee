import { add, cast, constant, div, float, max, mul, reduce, repeat, unary, vector } from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { fixedKernel } from './fixed.ts';
import { rowStride } from './kernel.ts';
import { LANES, nearestTo, rowStart, threadPairs } from './lanes.ts';
import { quantizedRows } from './norm.ts';
import { LARGEST, SMALLEST_PEAK, storePlanes } from './quantize-group.ts';

export type QuantizeBlocksShape = {
  readonly k: number;
  /** Columns that share a sum, a multiple of 16. */
  readonly group: number;
  /** Columns that share a scale, a multiple of `group` and of 64 that divides k, so that rows have no padding. */
  readonly block: number;
  readonly to: 'int8' | 'int16';
};

/** Rows of f32 to int8 or int16 with a scale per block of columns and sums of groups: see `quantize.blocks`. */
export const quantizeBlocks = fixedKernel<QuantizeBlocksShape>('quantize.blocks', (b, shape) => {
  const { k, group, block, to } = shape;
  const x = b.buffer('x', 'f32', 'read');
  const { q, scale, sum } = quantizedRows(b);
  const n = b.scalar('n');
  const limit = LARGEST[to];
  threadPairs(b, n, k / block, (token, index) => {
    const first = b.let('first', mul(index, block));
    const from = b.let('from', add(rowStart(b, token, k), first));
    const values = (at: Expr) => b.load(x, add(from, at), LANES);
    const largest = b.var('largest', float(0, LANES));
    b.for('i', 0, block, LANES, (at) => b.set(largest, max(largest, unary('abs', values(at)))));
    const peak = b.let('peak', max(reduce('max', largest), float(SMALLEST_PEAK)));
    const factor = b.let('factor', repeat(div(float(limit), peak), LANES));
    const planes = to === 'int8' ? 1 : 2;
    const start = b.let('start', add(mul(token, planes * k), first));
    const sums = b.let('sums', add(mul(token, rowStride(k / group)), mul(index, block / group)));
    b.for('group', 0, block / group, 1, (inBlock) => {
      const total = b.var('total', constant(vector('i32', LANES), 0));
      const inGroup = b.let('inGroup', mul(inBlock, group));
      b.for('i', 0, group, LANES, (offset) => {
        const at = b.let('at', add(inGroup, offset));
        const whole = b.let('whole', cast(nearestTo(values(at), factor, limit), 'i32'));
        b.set(total, add(total, whole));
        storePlanes(b, shape, q, b.let('to', add(start, at)), whole);
      });
      b.store(sum, add(sums, inBlock), reduce('add', total));
    });
    b.store(scale, add(mul(token, rowStride(k / block)), index), div(peak, float(limit)));
  });
});
