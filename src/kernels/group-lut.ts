import { LutraError } from '../common/errors.ts';
import { FunctionBuilder } from '../loops/builder.ts';
import { add, compare, int, mul } from '../loops/expr.ts';
import type { Machine } from '../loops/machine.ts';
import { TILE_ROWS } from './group/bit-planes.ts';
import { gemmScratch, writeUnpacked } from './group/gemm.ts';
import type { VectorSchedule } from './group/packed.ts';
import { groupParams } from './group/shape.ts';
import { groupMatmul } from './group-matmul.ts';
import { type Kernel, rowStride } from './kernel.ts';
import { type LutParams, writeLutTile } from './lut/gemv.ts';
import { writeLutScalar } from './lut/scalar.ts';
import type { LutSchedule, LutShape } from './lut/shape.ts';

function defaultSchedule(shape: LutShape, machine: Machine): LutSchedule {
  const { vectorBytes } = machine;
  const scalar = vectorBytes === 4;
  // More than a register: tables are loaded once for them all.
  const lanes = scalar ? 16 : Math.min(TILE_ROWS, 2 * vectorBytes);
  const base: LutSchedule = {
    method: scalar && shape.tables === 'exact' ? 'scalar' : 'lookup',
    lanes,
    rows: scalar ? lanes : TILE_ROWS,
    prefetchBytes: 0,
    few: 0,
    multiply: 'madd',
    dotRows: 16,
    tokens: 1,
    rowBlock: TILE_ROWS,
    unroll: 1,
  };
  if (shape.batch === 'one' || base.method === 'scalar' || shape.tables !== 'exact') return base;
  const dots = groupMatmul.defaultSchedule({ ...shape, encoding: 'code-tiles' }, machine);
  const { multiply, rows, tokens, rowBlock, unroll } = dots;
  if (multiply === 'scalar') throw new LutraError('internal', `no dots for ${machine.name}`);
  return { ...base, few: 4, multiply, dotRows: rows, tokens, rowBlock, unroll };
}

function schedules(shape: LutShape, machine: Machine): readonly LutSchedule[] {
  const base = defaultSchedule(shape, machine);
  if (base.method === 'scalar' || machine.vectorBytes === 4) return [base];
  const all: LutSchedule[] = [];
  const many = shape.batch === 'many' && shape.tables === 'exact';
  for (const lanes of [16, 32, 64].filter((l) => l >= machine.vectorBytes)) {
    for (const rows of [16, 32, 64].filter((r) => r >= lanes)) {
      for (const prefetchBytes of many ? [0] : [0, 1024, 4096]) {
        for (const few of many ? [2, 4, 8] : [0]) all.push({ ...base, lanes, rows, prefetchBytes, few });
      }
    }
  }
  const isBase = (s: LutSchedule) => JSON.stringify(s) === JSON.stringify(base);
  return [base, ...all.filter((s) => !isBase(s))];
}

function checkShape({ bits, k, group, activationGroup, encoding }: LutShape): void {
  const fail = (what: string, hint: string): never => {
    throw new LutraError('unsupported', `lowbit.matmul.group lut cannot ${what}`, { hint });
  };
  if (encoding !== 'bit-planes') fail(`read weights encoded as ${encoding}`, 'It reads bit-planes.');
  if (![1, 2, 3, 4].includes(bits)) fail(`read codes of ${bits} bits`, 'It reads 1, 2, 3 and 4.');
  if (![32, 64, 128, 256].includes(activationGroup)) {
    fail(`take activations in groups of ${activationGroup}`, 'It takes 32, 64, 128, 256.');
  }
  if (group < k && group % activationGroup !== 0) {
    fail(`take weights in groups of ${group}`, `It takes multiples of ${activationGroup}.`);
  }
}

/**
 * The product of `groupMatmul` by lookups: bits of weights, 4 columns at a time, index tables of sums of activations
 * (T-MAC, https://arxiv.org/abs/2407.00088). With `exact` tables its bits are those of family `mad`.
 */
export const groupLut: Kernel<LutShape, LutSchedule> = {
  op: 'lowbit.matmul.group',
  family: 'lut',
  defaultSchedule,
  schedules,

  build(name, shape, schedule) {
    checkShape(shape);
    const b = new FunctionBuilder(name);
    const tables = b.buffer('tables', 'i8', 'read');
    const tableScale = shape.tables === 'exact' ? undefined : b.buffer('tableScale', 'f32', 'read');
    const p: LutParams = { ...groupParams(b, shape), tables, ...(tableScale && { tableScale }) };
    const { few, multiply, dotRows, tokens, rowBlock, unroll } = schedule;
    if (schedule.method === 'scalar') writeLutScalar(b, p, shape);
    else if (few === 0) {
      b.thread('tile', rowStride(shape.m) / TILE_ROWS, (tile) => writeLutTile(b, p, shape, schedule, tile));
    } else {
      const dots: VectorSchedule = {
        multiply,
        rows: dotRows,
        tokens,
        rowBlock,
        few: 0,
        fewTokens: 1,
        unroll,
        prefetchBytes: 0,
      };
      const product = { b, p, shape, s: dots, ...gemmScratch(b, shape, dots) };
      b.thread('tile', rowStride(shape.m) / TILE_ROWS, (tile) => {
        b.if(
          compare('le', p.n, int(few)),
          () => writeLutTile(b, p, shape, schedule, tile),
          () => {
            const perTile = TILE_ROWS / rowBlock;
            b.for('inTile', 0, perTile, 1, (i) =>
              writeUnpacked(product, b.let('block', add(mul(tile, perTile), i))),
            );
          },
        );
      });
    }
    return b.build();
  },
};
