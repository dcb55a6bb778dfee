/** What the ways to multiply by rows of 4 or 6 bits share: shape, schedule, parameters, where a block's parts lie. */
import { BLOCK_ROWS, blockBytes } from '../../encodings/grouped-rows.ts';
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, float, mul, repeat, sub } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { type Multiply, rowStride } from '../kernel.ts';
import { groupsOf } from '../matmul-quantize.ts';

export type MatmulGroupedShape = {
  readonly m: number;
  readonly k: number;
  readonly bits: 4 | 6;
  readonly group: 32 | 64;
  readonly planes: 1 | 2;
  /** Whether what comes out is bounds: how small and how large the stored table's products can be. */
  readonly bounds: boolean;
};

export type MatmulGroupedSchedule = {
  readonly multiply: Multiply;
  /** Rows in registers at a time: 4, 8 or 16. */
  readonly rows: number;
  /** Tokens in registers at a time. */
  readonly tokens: number;
  /** Steps of 8 (4 bits) or 16 columns written out in the innermost loop. */
  readonly unroll: number;
  /** How far ahead the table is prefetched; 0: not at all. */
  readonly prefetchBytes: number;
};

/** Bytes of 4 columns of a block's rows, a byte each. */
export const FIELD = 4 * BLOCK_ROWS;
/** Columns of a step: as many as whole parts of `FIELD` bytes hold. */
export const STEP = { 4: 8, 6: 16 };
/** What bounds are wider by than |x| error + |d| packed: more than any sum of values too small for f32. */
const BOUND_FLOOR = 2 ** -120;

export interface GroupedParams {
  readonly q: BufferRef;
  readonly factor: BufferRef;
  readonly sum: BufferRef;
  readonly table: BufferRef;
  readonly norm: BufferRef | undefined;
  readonly rowNorm: BufferRef | undefined;
  readonly out: BufferRef;
  readonly high: BufferRef | undefined;
  readonly n: Expr;
}

export function groupedParams(b: FunctionBuilder, { bounds }: MatmulGroupedShape): GroupedParams {
  return {
    q: b.buffer('q', 'i8', 'read'),
    factor: b.buffer('factor', 'f32', 'read'),
    sum: b.buffer('sum', 'i32', 'read'),
    norm: bounds ? b.buffer('norm', 'f32', 'read') : undefined,
    table: b.buffer('table', 'u8', 'read'),
    rowNorm: bounds ? b.buffer('rowNorm', 'f32', 'read') : undefined,
    out: b.buffer('out', 'f32', 'write'),
    high: bounds ? b.buffer('high', 'f32', 'write') : undefined,
    n: b.scalar('n'),
  };
}

/** Rows of blocks in a table, and bytes of one. */
export const blockRows = ({ m }: MatmulGroupedShape) => Math.ceil(m / BLOCK_ROWS);
export const blockRowBytes = (shape: MatmulGroupedShape) => groupsOf(shape) * blockBytes(shape);

/** Stores a token's products with some rows, or their bounds. */
export function storeRows(
  b: FunctionBuilder,
  p: GroupedParams,
  { m }: MatmulGroupedShape,
  token: Expr,
  row: Expr,
  dots: Expr,
): void {
  const { lanes } = dots.type;
  const to = b.let('to', add(mul(token, rowStride(m)), row));
  if (p.norm === undefined || p.rowNorm === undefined || p.high === undefined) {
    b.store(p.out, to, dots);
    return;
  }
  const normAt = b.let('normAt', mul(token, rowStride(2)));
  const term = (i: number) => {
    const norm = repeat(b.load(p.norm!, add(normAt, i)), lanes);
    return mul(norm, b.load(p.rowNorm!, add(row, i * rowStride(m)), lanes));
  };
  const within = b.let('within', add(add(term(0), term(1)), float(BOUND_FLOOR, lanes)));
  const middle = b.let('middle', dots);
  b.store(p.out, to, sub(middle, within));
  b.store(p.high, to, add(middle, within));
}
