import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import { FunctionBuilder } from '../loops/builder.ts';
import { groupParams } from './group/shape.ts';
import { groupLut, writeLookups } from './group-lut.ts';
import { type Kernel, ROW_PAD, rowStride } from './kernel.ts';
import type { LowbitShape } from './lowbit.ts';
import type { LutSchedule, LutShape } from './lut/shape.ts';
import type { TablesShape } from './lut/tables.ts';

/** Columns whose lookups, by both planes of weights, add up as 16-bit words: 3 * 31 for each 4 of them. */
const WORD_COLUMNS = 2816;

/** Largest k: what is added up to the end of a row, at most 3 * 1020 for each 4 columns, fits 32 bits. */
const MAX_COLUMNS = 1 << 21;

/** The tables that a product of so many columns looks up. */
export function rowTables(k: number): TablesShape {
  return { k, activationGroup: k, to: 'int8', tables: 'exact' };
}

/** The product as one of weights in a single group: codes t + 1 of 2 bits, in parts that tables are added up in. */
function asGroup({ m, k, residual, batch, encoding }: LowbitShape): LutShape {
  const columns = rowStride(k);
  const parts = batch === 'many' ? 1 : Math.ceil(columns / WORD_COLUMNS);
  const activationGroup = alignUp(Math.ceil(columns / parts), ROW_PAD);
  const weights = { bits: 2, group: k, zero: 1, zeros: 'none', scales: 'f32' } as const;
  return { ...rowTables(k), ...weights, m, residual, batch, encoding, activationGroup };
}

/**
 * The product of `lowbitMatmul` by lookups, with its bits: planes of bits of the codes index exact tables of sums of
 * activations, as in `groupLut`; several tokens are multiplied.
 */
export const lowbitLut: Kernel<LowbitShape, LutSchedule> = {
  op: 'lowbit.matmul',
  family: 'lut',

  defaultSchedule: (shape, machine) => groupLut.defaultSchedule(asGroup(shape), machine),
  schedules: (shape, machine) => groupLut.schedules(asGroup(shape), machine),

  build(name, shape, schedule) {
    const fail = (what: string, hint?: string): never => {
      throw new LutraError('unsupported', `lowbit.matmul lut ${what}`, hint === undefined ? {} : { hint });
    };
    if (shape.encoding !== 'bit-planes') {
      fail(`cannot read weights encoded as ${shape.encoding}`, 'It reads bit-planes.');
    }
    if (shape.k > MAX_COLUMNS) fail(`is exact up to ${MAX_COLUMNS} columns, got ${shape.k}`);
    const b = new FunctionBuilder(name);
    const tables = b.buffer('tables', 'i8', 'read');
    const group = asGroup(shape);
    writeLookups(b, { ...groupParams(b, group), tables, wholeRows: true }, undefined, group, schedule);
    return b.build();
  },
};
