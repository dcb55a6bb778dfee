import { LutraError } from '../common/errors.ts';
import { FunctionBuilder } from '../loops/builder.ts';
import type { Machine } from '../loops/machine.ts';
import { type Kernel, rowStride, type VectorMultiply, variations } from './kernel.ts';
import { type LowbitSchedule, type LowbitShape, lowbitParams, TILE, tileFormat } from './lowbit.ts';
import { writeGemm } from './lowbit-gemm.ts';
import { writeGemv } from './lowbit-packed.ts';
import { writeScalar } from './lowbit-scalar.ts';

/**
 * Largest k: no i32 accumulator overflows. 16 columns of `i2` add up to 4 * 128 * 128 to the top field's, 20 of
 * `t5b` up to 4 * 162 * 128 to that of leading codes.
 */
const MAX_COLUMNS = 1 << 18;

const SCALAR: LowbitSchedule = {
  multiply: 'scalar',
  rows: 1,
  tokens: 1,
  rowBlock: TILE,
  few: 0,
  fewTokens: 1,
  unroll: 1,
  chains: 1,
  turns: false,
  prefetchBytes: 0,
  shiftTop: false,
};

/** The instructions worth trying, the best guess first. */
function multiplications({ native }: Machine): readonly VectorMultiply[] {
  const found: VectorMultiply[] = [];
  if (native.has('dot4')) found.push('dot4');
  if (native.has('dot2')) found.push('dot2');
  return found.length > 0 ? found : ['madd'];
}

/**
 * How far ahead a matrix-vector product prefetches. With `dot2`, arithmetic is what binds a thread (on Zen 4 a tile
 * takes 7.5 cycles from a cache, and 26 vector instructions cannot take less than 6.5), so that prefetching gains
 * little: 384 bytes 0 to 3 % of the rate, of 6,912 columns in pages of 4 KiB 15 %, while 640 and 768 lost up to 13 %.
 * 64-byte vectors wanted more on Zen 5.
 */
function gemvPrefetch(multiply: VectorMultiply, vectorBytes: number): number {
  if (vectorBytes === 64) return 1024;
  return vectorBytes === 32 && multiply === 'dot2' ? 384 : 0;
}

/**
 * Two registers of rows, from one row of tiles: that is one stream, which Zen 4 reads from memory up to twice as
 * fast as several. Of 64-byte vectors a row of tiles fills but one: there, two tiles in turns keep the multipliers
 * busy while sums wait for each other.
 */
function gemvSchedule(multiply: VectorMultiply, { vectorBytes, dotCodeMax }: Machine): LowbitSchedule {
  return {
    ...SCALAR,
    multiply,
    rows: Math.min(TILE, vectorBytes / 2),
    ...(vectorBytes === 64 ? { unroll: 2, chains: 2 } : {}),
    prefetchBytes: gemvPrefetch(multiply, vectorBytes),
    turns: multiply === 'dot2',
    shiftTop: dotCodeMax < 128,
  };
}

/**
 * Tokens on packed codes in registers at a time. Two can share the masking; with `dot2`, four share shifts besides
 * and need one accumulator each (`IN_PLACE_TOKENS`). V8 wants the registers for operands.
 */
function fewTokens(multiply: VectorMultiply, encoding: string, machine: Machine): number {
  const { vectorBytes, vectorRegisters } = machine;
  if (vectorBytes === 16) return 1;
  if (multiply === 'dot2') return 4;
  const accumulators = tileFormat(encoding).hasLead ? 5 : 4;
  const perToken = accumulators * (TILE / (vectorBytes / 4));
  return Math.max(1, Math.floor(vectorRegisters / 2 / perToken));
}

/**
 * Two registers of rows by as many tokens as accumulators fit, with room for operands. Unpacking costs as much as
 * two tokens, and a token on packed codes a little more than one on unpacked codes: a fourteenth with AVX2.
 */
function gemmSchedule(
  multiply: VectorMultiply,
  { k, encoding }: LowbitShape,
  machine: Machine,
): LowbitSchedule {
  const { vectorBytes, vectorRegisters } = machine;
  const rows = vectorBytes / 2;
  const fits = (block: number) => block * rowStride(k) * (multiply === 'madd' ? 2 : 1) <= machine.l2Bytes / 2;
  const blocks = [64, 32, TILE].filter((block) => block >= rows);
  return {
    ...gemvSchedule(multiply, machine),
    unroll: 1,
    chains: 1,
    rows,
    tokens: vectorRegisters === 32 ? 12 : 4,
    rowBlock: blocks.find(fits) ?? blocks.at(-1)!,
    few: vectorBytes === 16 ? 3 : multiply === 'dot2' ? 16 : 12,
    // Several tokens leave time to fetch: 7 to 11 % faster for 4 to 16 from memory.
    prefetchBytes: vectorBytes === 16 ? 0 : 1024,
    fewTokens: fewTokens(multiply, encoding, machine),
  };
}

function schedules(shape: LowbitShape, machine: Machine): readonly LowbitSchedule[] {
  if (machine.vectorBytes === 4) return [SCALAR];
  return multiplications(machine).flatMap((multiply) => {
    if (shape.batch === 'one') {
      return variations(gemvSchedule(multiply, machine), {
        rows: [4, 8, 16].filter((rows) => rows * 4 >= machine.vectorBytes),
        unroll: [1, 2],
        chains: [1, 2],
        prefetchBytes: [0, 1024, 4096],
      });
    }
    const base = gemmSchedule(multiply, shape, machine);
    const registers = ({ rows, tokens }: LowbitSchedule) => (rows * tokens * 4) / machine.vectorBytes;
    return variations(base, {
      rows: [base.rows, 2 * base.rows].filter((rows) => rows <= base.rowBlock),
      tokens: machine.vectorRegisters === 32 ? [6, 8, 12] : [2, 3, 4, 6],
      few: [0, 3, Math.max(12, base.few)],
    }).filter((schedule) => registers(schedule) < machine.vectorRegisters);
  });
}

/**
 * Ternary weights by int8 activations: y = (sum of q * trit) * weightScale * scale (+ residual), the sum exact.
 * Weights are unsigned codes (`i2`, `t5b`), so that the sum of q is subtracted once per row.
 */
export const lowbitMatmul: Kernel<LowbitShape, LowbitSchedule> = {
  op: 'lowbit.matmul',
  family: 'mad',

  defaultSchedule: (shape, machine) => schedules(shape, machine)[0]!,
  schedules,

  build(name, shape, schedule) {
    tileFormat(shape.encoding);
    if (shape.k > MAX_COLUMNS) {
      throw new LutraError(
        'unsupported',
        `lowbit.matmul mad is exact up to ${MAX_COLUMNS} columns, got ${shape.k}`,
      );
    }
    const b = new FunctionBuilder(name);
    const params = lowbitParams(b, shape.residual);
    const { multiply } = schedule;
    if (multiply === 'scalar') writeScalar(b, params, shape);
    else if (shape.batch === 'one') writeGemv(b, params, shape, { ...schedule, multiply });
    else writeGemm(b, params, shape, { ...schedule, multiply });
    return b.build();
  },
};
