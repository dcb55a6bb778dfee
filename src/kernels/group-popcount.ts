import { FunctionBuilder } from '../loops/builder.ts';
import { TILE_ROWS } from './group/bit-planes.ts';
import { writeGemm } from './group/gemm.ts';
import { groupParams } from './group/shape.ts';
import { checkPlanes, groupLut } from './group-lut.ts';
import { type Kernel, type Multiply, rowStride } from './kernel.ts';
import { writePopcountTile } from './lut/popcount.ts';
import { writeLutScalar } from './lut/scalar.ts';
import type { LutShape } from './lut/shape.ts';

type PopcountSchedule = {
  /** Rows whose bits are counted at a time: 16, 32 or 64. */
  readonly lanes: number;
  /** For several tokens codes are unpacked and multiplied, as in `lut`, by */
  readonly multiply: Multiply;
  /** so many rows and tokens in registers at a time, */
  readonly rows: number;
  readonly tokens: number;
  /** and so many rows unpacked. */
  readonly rowBlock: number;
  readonly unroll: number;
};

/**
 * The product of `groupMatmul` bit by bit, with the same bits of results: 8 bits of activations (`lut/bits.ts`) by each
 * bit of the weights, ANDed and counted. It takes 8 times the steps of tables of 1 bit, so that tuning has it to reject.
 */
export const groupPopcount: Kernel<LutShape, PopcountSchedule> = {
  op: 'lowbit.matmul.group',
  family: 'popcount',

  defaultSchedule(shape, machine) {
    const like = groupLut.defaultSchedule({ ...shape, tables: 'exact' }, machine);
    const { method, dotRows, tokens, rowBlock, unroll } = like;
    const lanes = Math.max(16, machine.vectorBytes);
    const multiply = method === 'scalar' ? 'scalar' : like.multiply;
    return { lanes, multiply, rows: dotRows, tokens, rowBlock, unroll };
  },

  schedules(shape, machine) {
    return [this.defaultSchedule(shape, machine)];
  },

  build(name, shape, { lanes, multiply, ...dots }) {
    checkPlanes('popcount', shape);
    const b = new FunctionBuilder(name);
    const tables = b.buffer('tables', 'i8', 'read');
    const p = { ...groupParams(b, shape), tables };
    if (shape.batch === 'one') {
      b.thread('tile', rowStride(shape.m) / TILE_ROWS, (tile) => writePopcountTile(b, p, shape, lanes, tile));
    } else if (multiply === 'scalar') writeLutScalar(b, p, shape);
    else
      writeGemm(b, p, shape, { ...dots, multiply, few: 0, fewTokens: 1, prefetchBytes: 0, inPlace: false });
    return b.build();
  },
};
