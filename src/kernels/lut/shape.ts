import { SPAN } from '../group/bit-planes.ts';
import { type GroupShape, PLANE_SHIFT } from '../group/shape.ts';
import { BYTE_BIAS, EXACT_BIAS, QUAD, type TableForm } from './tables.ts';

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
  readonly multiply: 'dot4' | 'dot2' | 'madd';
  /** so many rows and tokens in registers at a time, */
  readonly dotRows: number;
  readonly tokens: number;
  /** and so many rows unpacked, which divide 64. */
  readonly rowBlock: number;
  readonly unroll: number;
};

/** What rounding up adds on average in 3 levels of averages: a quarter a level. */
const AVERAGE_EXCESS = 0.75;

/** What sums of lookups over `width` columns have added, by all planes of weights and of activations. */
export function tablesExcess({ tables, bits, to }: LutShape, width: number): number {
  const planes = 2 ** bits - 1;
  if (tables === 'int8') return (BYTE_BIAS * planes * width) / QUAD;
  if (tables === 'fast') return ((BYTE_BIAS + AVERAGE_EXCESS) * planes * width) / SPAN;
  const activations = to === 'int16' ? (1 << PLANE_SHIFT) + 1 : 1;
  return (EXACT_BIAS * planes * activations * width) / QUAD;
}

/** Units of tables in 1 of sums: `fast` ones are means of 8 lookups. */
export function tablesUnit({ tables }: LutShape): number {
  return tables === 'fast' ? SPAN / QUAD : 1;
}
