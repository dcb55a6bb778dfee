import { LutraError } from '../common/errors.ts';
import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
import type { Expr } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { SPAN, TILE_ROWS } from './group/bit-planes.ts';
import { writeGemm } from './group/gemm.ts';
import { groupParams, TILE } from './group/shape.ts';
import { groupMatmul } from './group-matmul.ts';
import { defaultFirst, type Kernel, rowStride } from './kernel.ts';
import { type LutParams, writeLutTile } from './lut/gemv.ts';
import { writeLutScalar } from './lut/scalar.ts';
import { type LutSchedule, type LutShape, MEANS, tablesExcess } from './lut/shape.ts';
import { isBytes } from './lut/tables.ts';

/** Whether there are enough tokens for codes to be unpacked. */
const multiplies = ({ batch, tables }: LutShape) => batch === 'many' && tables !== 'fast';

function defaultSchedule(shape: LutShape, machine: Machine): LutSchedule {
  const { vectorBytes } = machine;
  const scalar = vectorBytes === 4;
  // More than a register: tables are loaded once for them all.
  const lanes = scalar ? 16 : Math.min(TILE_ROWS, 2 * vectorBytes);
  // One plane of sums stays in registers of 32 bytes; more of them, or of 16 bytes, get in each other's way.
  const isHeld = shape.bits === 1 && shape.tables !== 'int8' && vectorBytes >= 32;
  const base: LutSchedule = {
    method: scalar && (shape.tables === 'exact' || multiplies(shape)) ? 'scalar' : 'lookup',
    lanes,
    rows: scalar ? lanes : TILE_ROWS,
    columns: isHeld ? 4 * SPAN : SPAN,
    sums: 'words',
    prefetchBytes: 0,
    multiply: 'madd',
    dotRows: 16,
    tokens: 1,
    rowBlock: TILE_ROWS,
    unroll: 1,
  };
  if (!multiplies(shape) || base.method === 'scalar') return base;
  const dots = groupMatmul.defaultSchedule({ ...shape, encoding: 'code-tiles' }, machine);
  const { multiply, rows, tokens, rowBlock, unroll } = dots;
  if (multiply === 'scalar') throw new LutraError('internal', `no dots for ${machine.name}`);
  return { ...base, multiply, dotRows: rows, tokens, rowBlock, unroll };
}

function schedules(shape: LutShape, machine: Machine): readonly LutSchedule[] {
  const base = defaultSchedule(shape, machine);
  if (base.method === 'scalar' || machine.vectorBytes === 4) return [base];
  if (multiplies(shape)) {
    return defaultFirst(base, [
      ...[1, 4].map((unroll) => ({ ...base, unroll })),
      ...[TILE, 2 * TILE, TILE_ROWS]
        .filter((rowBlock) => rowBlock >= base.dotRows)
        .map((rowBlock) => ({ ...base, rowBlock })),
    ]);
  }
  const all: LutSchedule[] = [];
  const added = [{ columns: base.columns, sums: 'words' } as const];
  const averaged = [SPAN, 4 * SPAN].map((columns) => ({ columns, sums: 'averages' }) as const);
  const sums = shape.tables === 'int8' ? [...added, ...averaged] : added;
  for (const lanes of [16, 32, 64].filter((l) => l >= machine.vectorBytes)) {
    for (const rows of [16, 32, 64].filter((r) => r >= lanes)) {
      for (const prefetchBytes of [0, 1024, 4096]) {
        for (const how of sums) all.push({ ...base, lanes, rows, ...how, prefetchBytes });
      }
    }
  }
  return defaultFirst(base, all);
}

/** Throws `unsupported` for what kernels that read `bit-planes` cannot compute. */
export function checkPlanes(family: string, shape: LutShape): void {
  const { bits, k, group, activationGroup, encoding, tables, to } = shape;
  const fail = (what: string, hint: string): never => {
    throw new LutraError('unsupported', `lowbit.matmul.group ${family} cannot ${what}`, { hint });
  };
  if (encoding !== 'bit-planes') fail(`read weights encoded as ${encoding}`, 'It reads bit-planes.');
  if (![1, 2, 3, 4].includes(bits)) fail(`read codes of ${bits} bits`, 'It reads 1, 2, 3 and 4.');
  if (![32, 64, 128, 256].includes(activationGroup)) {
    fail(`take activations in groups of ${activationGroup}`, 'It takes 32, 64, 128, 256.');
  }
  if (group < k && group % activationGroup !== 0) {
    fail(`take weights in groups of ${group}`, `It takes multiples of ${activationGroup}.`);
  }
  if (isBytes(tables) && to !== 'sums') {
    fail(`look up activations of ${to} in tables of bytes`, 'Quantize them to sums.');
  }
}

/** The body of a kernel in family `lut`, as the schedule says; `tableBias` is that of tables of bytes. */
export function writeLookups(
  b: FunctionBuilder,
  p: LutParams,
  tableBias: BufferRef | undefined,
  shape: LutShape,
  schedule: LutSchedule,
): void {
  const { method, multiply, dotRows, tokens, rowBlock, unroll } = schedule;
  if (method === 'scalar') writeLutScalar(b, p, shape);
  else if (multiplies(shape)) {
    const unused = { few: 0, fewTokens: 1, prefetchBytes: 0, inPlace: false };
    writeGemm(b, p, shape, { multiply, rows: dotRows, tokens, rowBlock, unroll, ...unused });
  } else {
    const excess = (width: number, part: Expr) => tablesExcess(b, shape, tableBias, width, part);
    const sums: LutParams = { ...p, excess, unit: shape.tables === 'fast' ? MEANS : 1 };
    b.thread('tile', rowStride(shape.m) / TILE_ROWS, (tile) => writeLutTile(b, sums, shape, schedule, tile));
  }
}

/**
 * The product of `groupMatmul` by lookups: bits of weights, 4 columns at a time, index tables of sums of activations
 * (T-MAC, https://arxiv.org/abs/2407.00088). Its bits are those of family `mad`, but of `fast` tables.
 */
export const groupLut: Kernel<LutShape, LutSchedule> = {
  op: 'lowbit.matmul.group',
  family: 'lut',
  defaultSchedule,
  schedules,

  build(name, shape, schedule) {
    checkPlanes('lut', shape);
    const b = new FunctionBuilder(name);
    const tables = b.buffer('tables', 'i8', 'read');
    const tableBias = isBytes(shape.tables) ? b.buffer('tableBias', 'i32', 'read') : undefined;
    writeLookups(b, { ...groupParams(b, shape), tables }, tableBias, shape, schedule);
    return b.build();
  },
};
