import { LutraError } from '../common/errors.ts';
import { FunctionBuilder } from '../loops/builder.ts';
import type { Machine } from '../loops/machine.ts';
import { SPANS } from './group/fields.ts';
import { writeGemm } from './group/gemm.ts';
import { writeGemv } from './group/packed.ts';
import { writeScalar } from './group/scalar.ts';
import {
  type GroupParams,
  type GroupSchedule,
  type GroupShape,
  groupParams,
  planesOf,
  TILE,
} from './group/shape.ts';
import { type Kernel, rowStride, type VectorMultiply, variations } from './kernel.ts';

const SCALAR: GroupSchedule = {
  multiply: 'scalar',
  rows: 1,
  tokens: 1,
  rowBlock: TILE,
  few: 0,
  fewTokens: 1,
  unroll: 1,
  prefetchBytes: 0,
  inPlace: true,
};

/** The instructions worth trying, the best guess first; eight bits are too many for all but a full dot4. */
function multiplications({ bits }: GroupShape, { native, dotCodeMax }: Machine): readonly VectorMultiply[] {
  const found: VectorMultiply[] = [];
  const fits = bits < 8 || dotCodeMax === 255;
  if (native.has('dot4') && fits) found.push('dot4');
  if (native.has('dot2') && bits < 8) found.push('dot2');
  return found.length > 0 ? found : ['madd'];
}

/**
 * Two registers of rows, from one row of tiles, which is one stream from memory. With 16 registers, accumulators for
 * each place of a field cost more than shifts save, but where there are few others; `dot4` has to wait for its own.
 */
function gemvSchedule(
  multiply: VectorMultiply,
  { bits }: GroupShape,
  machine: Machine,
  sums: number,
): GroupSchedule {
  const { vectorBytes, vectorRegisters } = machine;
  const inPlace = multiply === 'dot4' || vectorRegisters === 32 || (vectorBytes === 32 && sums === 1);
  return {
    ...SCALAR,
    multiply,
    rows: Math.min(TILE, vectorBytes / 2),
    unroll: inPlace ? 32 : 16,
    prefetchBytes: vectorBytes >= 32 ? (bits < 4 ? 1024 : 2048) : 0,
    inPlace,
  };
}

function gemmSchedule(multiply: VectorMultiply, shape: GroupShape, machine: Machine): GroupSchedule {
  const { vectorBytes, vectorRegisters } = machine;
  const rows = vectorBytes / 2;
  const elementBytes = multiply === 'madd' ? 2 : 1;
  const fits = (block: number) => block * rowStride(shape.k) * elementBytes <= machine.l2Bytes / 2;
  const blocks = [64, 32, TILE].filter((block) => block >= rows);
  const narrow = vectorBytes === 16;
  const planes = planesOf(shape);
  const fewTokens =
    vectorRegisters === 32 ? 4 / planes : multiply === 'dot2' && !(narrow && planes > 1) ? 2 : 1;
  return {
    ...gemvSchedule(multiply, shape, machine, planes * fewTokens),
    rows,
    tokens: (vectorRegisters === 32 ? 8 : 4) / planes,
    rowBlock: blocks.find(fits) ?? blocks.at(-1)!,
    few: narrow || shape.bits === 3 ? 3 : fewTokens > 1 ? 8 : 6,
    fewTokens,
    unroll: 2,
  };
}

function schedules(shape: GroupShape, machine: Machine): readonly GroupSchedule[] {
  if (machine.vectorBytes === 4) return [SCALAR];
  return multiplications(shape, machine).flatMap((multiply) => {
    if (shape.batch === 'one') {
      return variations(gemvSchedule(multiply, shape, machine, planesOf(shape)), {
        rows: [4, 8, 16].filter((rows) => rows * 4 >= machine.vectorBytes),
        unroll: [16, 64],
        prefetchBytes: [0, 4096],
        inPlace: [true, false],
      });
    }
    const base = gemmSchedule(multiply, shape, machine);
    const registers = ({ rows, tokens }: GroupSchedule) =>
      (rows * tokens * planesOf(shape) * 4) / machine.vectorBytes;
    return variations(base, {
      rows: [base.rows, 2 * base.rows].filter((rows) => rows <= base.rowBlock),
      tokens: machine.vectorRegisters === 32 ? [4, 8, 12] : [2, 3, 4],
      few: [0, 12],
      unroll: [1, 4],
    }).filter((schedule) => registers(schedule) < machine.vectorRegisters);
  });
}

/** Groups that kernels can compute: see `checkShape`. */
const ACTIVATION_GROUPS: readonly number[] = [16, 32, 64, 128, 256];

function checkShape({ bits, k, group, activationGroup, encoding }: GroupShape): void {
  const fail = (what: string, hint: string): never => {
    throw new LutraError('unsupported', `lowbit.matmul.group mad cannot ${what}`, { hint });
  };
  if (encoding !== 'code-tiles') fail(`read weights encoded as ${encoding}`, 'It reads code-tiles.');
  if (!(bits in SPANS)) fail(`read codes of ${bits} bits`, `It reads ${Object.keys(SPANS).join(', ')}.`);
  if (!ACTIVATION_GROUPS.includes(activationGroup)) {
    fail(`take activations in groups of ${activationGroup}`, `It takes ${ACTIVATION_GROUPS.join(', ')}.`);
  }
  if (activationGroup % SPANS[bits]!.columns !== 0) {
    fail(`take codes of ${bits} bits in groups of ${activationGroup}`, 'These lie 32 columns together.');
  }
  if (group < k && group % activationGroup !== 0) {
    fail(`take weights in groups of ${group}`, `It takes multiples of ${activationGroup}.`);
  }
}

/** The body of a kernel in family `mad`, as the schedule says. */
export function writeGroups(
  b: FunctionBuilder,
  params: GroupParams,
  shape: GroupShape,
  schedule: GroupSchedule,
): void {
  const { multiply } = schedule;
  if (multiply === 'scalar') writeScalar(b, params, shape);
  else if (shape.batch === 'one') writeGemv(b, params, shape, { ...schedule, multiply });
  else writeGemm(b, params, shape, { ...schedule, multiply });
}

/**
 * Weights of 1 to 8 bits, quantized in groups of columns, by activations of int8 or int16 quantized in groups: dots
 * of a group in exact integers, their sum over groups in floats, one group after the other.
 */
export const groupMatmul: Kernel<GroupShape, GroupSchedule> = {
  op: 'lowbit.matmul.group',
  family: 'mad',

  defaultSchedule: (shape, machine) => schedules(shape, machine)[0]!,
  schedules,

  build(name, shape, schedule) {
    checkShape(shape);
    const b = new FunctionBuilder(name);
    writeGroups(b, groupParams(b, shape), shape, schedule);
    return b.build();
  },
};
