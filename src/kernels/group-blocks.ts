import { LutraError } from '../common/errors.ts';
import { FunctionBuilder } from '../loops/builder.ts';
import type { Machine } from '../loops/machine.ts';
import { SPANS } from './group/fields.ts';
import type { BlockShape, GroupParams, GroupSchedule, GroupShape } from './group/shape.ts';
import { groupMatmul, writeGroups } from './group-matmul.ts';
import { type Kernel, ROW_PAD } from './kernel.ts';

/** Groups that kernels can compute, and the largest block of them whose sums are integers of 32 bits. */
const GROUPS: readonly number[] = [16, 32, 64];
const LARGEST_BLOCK = 256;

function checkShape({ bits, k, group, block, zero, scaleCodes, zeroCodes, encoding }: BlockShape): void {
  const fail = (what: string, hint: string): never => {
    throw new LutraError('unsupported', `lowbit.matmul.blocks mad cannot ${what}`, { hint });
  };
  if (encoding !== 'code-tiles') fail(`read weights encoded as ${encoding}`, 'It reads code-tiles.');
  if (![2, 4, 6].includes(bits)) fail(`read codes of ${bits} bits`, 'It reads 2, 4 and 6.');
  if (!GROUPS.includes(group) || group % SPANS[bits]!.columns !== 0) {
    fail(`take groups of ${group}`, `It takes ${GROUPS.join(', ')}.`);
  }
  if (block % ROW_PAD !== 0 || block % (2 * group) !== 0 || block > LARGEST_BLOCK || k % block !== 0) {
    fail(
      `take ${k} columns in blocks of ${block}`,
      `Blocks are whole, of 64, 128 or ${LARGEST_BLOCK} columns and an even number of groups.`,
    );
  }
  if (zeroCodes !== 'none' && zero !== 0) fail('subtract both minima and a zero', 'Give one of them.');
  if (!['u4', 'u8', 'i8'].includes(scaleCodes)) fail(`read scales of ${scaleCodes}`, 'It reads u4, u8, i8.');
}

/** The same as groups by themselves, which is how their codes are multiplied. */
function asGroups({ m, k, bits, group, zero, to, residual, batch, encoding }: BlockShape): GroupShape {
  const groups = { group, activationGroup: group, zero, zeros: 'none', scales: 'f16' } as const;
  return { m, k, bits, ...groups, to, residual, batch, encoding };
}

/** Those of groups, but that codes of 2 bits are prefetched as far ahead as those of 4: scales are half as much again. */
function schedules(shape: BlockShape, machine: Machine): readonly GroupSchedule[] {
  return groupMatmul.schedules(asGroups(shape), machine).map((schedule) => ({
    ...schedule,
    prefetchBytes: schedule.prefetchBytes === 1024 ? 2048 : schedule.prefetchBytes,
  }));
}

/** Buffers in the order of `lowbit.matmul.blocks`. */
function blockParams(b: FunctionBuilder, shape: BlockShape): GroupParams {
  const hasZeros = shape.zeroCodes !== 'none';
  const q = b.buffer('q', 'i8', 'read');
  const scale = b.buffer('scale', 'f32', 'read');
  const sum = b.buffer('sum', 'i32', 'read');
  const weight = b.buffer('weight', 'u8', 'read');
  const weightScale = b.buffer('weightScale', 'f16', 'read');
  const residual = shape.residual ? b.buffer('residual', 'f32', 'read') : undefined;
  const scaleCodes = b.buffer('scaleCodes', shape.scaleCodes === 'i8' ? 'i8' : 'u8', 'read');
  const zeros = hasZeros ? b.buffer('zeros', 'f16', 'read') : undefined;
  const zeroCodes = hasZeros ? b.buffer('zeroCodes', 'u8', 'read') : undefined;
  const out = b.buffer('out', 'f32', 'write');
  const blocks = { shape, scaleCodes, zeroCodes };
  return { q, scale, sum, weight, weightScale, residual, zeros, blocks, out, n: b.scalar('n') };
}

/**
 * Weights of 2, 4 or 6 bits whose groups of 16 or 32 columns have integers for scales and minima, scaled in turn by
 * floats of blocks of 256: llama.cpp's K-quants as they are stored. Within a block everything is integers.
 */
export const groupBlocks: Kernel<BlockShape, GroupSchedule> = {
  op: 'lowbit.matmul.blocks',
  family: 'mad',

  defaultSchedule: (shape, machine) => schedules(shape, machine)[0]!,
  schedules,

  build(name, shape, schedule) {
    checkShape(shape);
    const b = new FunctionBuilder(name);
    writeGroups(b, blockParams(b, shape), asGroups(shape), schedule);
    return b.build();
  },
};
