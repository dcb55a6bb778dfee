import type { GroupShape } from '../group/shape.ts';
import type { TableForm } from './tables.ts';

/** `lowbit.matmul.group` by lookups: its shape, and which tables (`tables.ts`) it reads. */
export type LutShape = GroupShape & { readonly tables: TableForm };

export type LutSchedule = {
  /** `lookup`: tables in registers; `scalar`: entries loaded from memory one by one, only of `exact` tables. */
  readonly method: 'lookup' | 'scalar';
  /** Rows that a lookup serves: 16, 32 or 64. */
  readonly lanes: number;
  /** Rows of a tile whose sums are kept at a time, a multiple of `lanes`: 64 read every line of weights once. */
  readonly rows: number;
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
