/**
 * Bits of activations, in place of tables of their sums: what family `popcount` multiplies bits of weights by. Of 64
 * columns 64 bytes, 8 for each bit, the lowest first; in a byte, that bit of 8 columns, the lowest first. Activations
 * of int16 are two planes of int8.
 */
import { FunctionBuilder } from '../../loops/builder.ts';
import { add, and, bitcast, cast, mul, shift, shuffle, vector } from '../../loops/expr.ts';
import type { LoopFunction } from '../../loops/ir.ts';
import { type GroupShape, planesOf } from '../group/shape.ts';
import { ROW_PAD, rowStride } from '../kernel.ts';
import { threadPairs } from '../lanes.ts';

export const ACTIVATION_BITS = 8;

/** Columns whose bits are a byte, and the bytes of a bit in `ROW_PAD` columns. */
const COLUMNS = 8;
export const BIT_BYTES = ROW_PAD / COLUMNS;

/** Moves bit 0 of byte j of 4 to bit 24 + j. */
const GATHER = 0x01020408;

export function buildBits(name: string, shape: Pick<GroupShape, 'k' | 'to'>): LoopFunction {
  const b = new FunctionBuilder(name);
  const q = b.buffer('q', 'i8', 'read');
  const tables = b.buffer('tables', 'i8', 'write');
  const n = b.scalar('n');
  const width = planesOf(shape) * rowStride(shape.k);
  threadPairs(b, n, width / ROW_PAD, (token, index) => {
    const at = b.let('at', add(mul(token, width), mul(index, ROW_PAD)));
    const fours = b.let('fours', bitcast(b.load(q, at, ROW_PAD), vector('u32', ROW_PAD / 4)));
    for (let bit = 0; bit < ACTIVATION_BITS; bit++) {
      const ones = and(shift('right', fours, bit), 0x01010101);
      const nibbles = b.let('nibbles', shift('right', mul(ones, GATHER), 24));
      const half = (odd: number) =>
        shuffle(
          nibbles,
          Array.from({ length: BIT_BYTES }, (_, i) => 2 * i + odd),
        );
      const bytes = cast(add(half(0), shift('left', half(1), 4)), 'u8');
      b.store(tables, add(at, bit * BIT_BYTES), bitcast(bytes, vector('i8', BIT_BYTES)));
    }
  });
  return b.build();
}
