import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, int, mul } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { type GroupShape, PLANE_SHIFT } from '../group/shape.ts';
import type { VectorMultiply } from '../kernel.ts';
import { EXACT_BIAS, QUAD, type TableForm } from './tables.ts';

/** `lowbit.matmul.group` by lookups: its shape, and which tables (`tables.ts`) it reads. */
export type LutShape = GroupShape & { readonly tables: TableForm };

export type LutSchedule = {
  /** `lookup`: tables in registers; `scalar`: entries loaded from memory one by one, only of `exact` tables. */
  readonly method: 'lookup' | 'scalar';
  /** Rows that a lookup serves: 16, 32 or 64. */
  readonly lanes: number;
  /** Rows of a tile whose sums are kept at a time, a multiple of `lanes`: 64 read every line of weights once. */
  readonly rows: number;
  /** Columns whose lookups are written out in the innermost loop: 32, 64 or 128, as far as a group has them. */
  readonly columns: number;
  /**
   * How bytes of `int8` tables are added exactly: widened to words one by one, or their averages to a mean, and
   * beside it the bytes modulo 256.
   */
  readonly sums: 'words' | 'averages';
  /** How far ahead weights are prefetched; 0: not at all. */
  readonly prefetchBytes: number;
  /** Batch `many` of `exact` tables does without them: codes are unpacked and multiplied, as in `mad`, by */
  readonly multiply: VectorMultiply;
  /** so many rows and tokens in registers at a time, */
  readonly dotRows: number;
  readonly tokens: number;
  /** and so many rows unpacked, which divide 64. */
  readonly rowBlock: number;
  readonly unroll: number;
};

/**
 * Lookups of `fast` tables of which the mean is taken, in bytes, before these add up as words. Of 8 it took as much time
 * (less of sums, more registers) and erred 2.3 times as much.
 */
export const MEANS = 4;

/** What rounding up adds to a mean, on average: a quarter at each of log2(MEANS) levels. */
const MEAN_EXCESS = Math.log2(MEANS) / 4;

/**
 * What sums of lookups over `width` columns have added, by all planes of weights and of activations; `tableBias` has
 * what entries of byte tables have, for each part.
 */
export function tablesExcess(
  b: FunctionBuilder,
  { tables, bits, to }: LutShape,
  tableBias: BufferRef | undefined,
  width: number,
  part: Expr,
): Expr {
  const planes = 2 ** bits - 1;
  if (tableBias === undefined) {
    const activations = to === 'int16' ? (1 << PLANE_SHIFT) + 1 : 1;
    return int((EXACT_BIAS * planes * activations * width) / QUAD);
  }
  const bias = b.load(tableBias, part);
  const rounded = tables === 'fast' ? add(bias, (width / QUAD) * MEAN_EXCESS) : bias;
  return b.let('excess', mul(rounded, planes));
}
