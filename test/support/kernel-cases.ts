/** Integer kernels on random shapes, the same for every target. */
import { randomUniform } from '../../src/common/random.ts';
import { packBitPlanes } from '../../src/encodings/bit-planes.ts';
import { ternaryCodes } from '../../src/encodings/ternary-blocks.ts';
import { packI2 } from '../../src/encodings/ternary-i2.ts';
import { packT5b } from '../../src/encodings/ternary-t5b.ts';
import type { BlockShape, GroupShape } from '../../src/kernels/group/shape.ts';
import { groupBlocks } from '../../src/kernels/group-blocks.ts';
import { groupLut } from '../../src/kernels/group-lut.ts';
import { groupMatmul } from '../../src/kernels/group-matmul.ts';
import { groupPopcount } from '../../src/kernels/group-popcount.ts';
import { rowStride } from '../../src/kernels/kernel.ts';
import { lowbitLut, rowTables } from '../../src/kernels/lowbit-lut.ts';
import { lowbitMatmul } from '../../src/kernels/lowbit-matmul.ts';
import { isBytes, lutTables, type TableForm, tableBytes } from '../../src/kernels/lut/tables.ts';
import { quantize } from '../../src/kernels/quantize.ts';
import { quantizeGroup } from '../../src/kernels/quantize-group.ts';
import { bytesOf, randomFloats, randomInts } from '../../src/kernels/testing.ts';
import { runFunction } from '../../src/loops/interpret.ts';
import type { LoopFunction } from '../../src/loops/ir.ts';
import type { Machine } from '../../src/loops/machine.ts';
import type { TernaryWeight } from '../../src/models/weights.ts';
import { C_MACHINES } from '../../src/targets/c/machines.ts';

/** One kernel on one input: what `callKernel` and the interpreter take. */
export interface KernelTestCase {
  readonly name: string;
  readonly build: (machine: Machine) => LoopFunction;
  readonly buffers: readonly Uint8Array[];
  readonly scalars: readonly number[];
}

const packTritPlanes = (weight: TernaryWeight) => packBitPlanes(ternaryCodes(weight));

/** Ternary weights, encoded as i2 and t5b in turns, or looked up: any bytes below 32 are tables. */
function matmulCase(i: number, lut = false): KernelTestCase {
  const random = randomUniform(100 + i);
  const between = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  const [m, k] = [between(1, 150), between(1, 400)];
  const n = i % 2 === 0 ? 1 : between(2, 19);
  const residual = random() < 0.5;
  const encoding = lut ? 'bit-planes' : i % 8 < 4 ? 'i2' : 't5b';
  const shape = { m, k, residual, batch: n === 1 ? 'one' : 'many', encoding } as const;
  const trits = Int8Array.from(randomInts(i + 1, m * k, -1, 1));
  const q = new Int8Array(n * rowStride(k));
  for (let r = 0; r < n; r++) q.set(randomInts(i * 31 + r, k, -128, 127), r * rowStride(k));
  const sum = Int32Array.from({ length: n }, (_, r) =>
    q.subarray(r * rowStride(k), (r + 1) * rowStride(k)).reduce((a, b) => a + b, 0),
  );
  const out = new Float32Array(n * rowStride(m));
  const pack = { i2: packI2, t5b: packT5b, 'bit-planes': packTritPlanes }[encoding];
  const weight = pack({ kind: 'ternary', rows: m, cols: k, blocks: [{ form: 'trits', rows: m, trits }] });
  const inputs = [
    bytesOf(q),
    bytesOf(randomFloats(i, n)),
    bytesOf(sum),
    weight,
    bytesOf(randomFloats(i, rowStride(m))),
  ];
  const name = `matmul_${lut ? 'lut' : 'mad'}_${i}`;
  const tables = lut ? [Uint8Array.from(randomInts(i + 8, n * tableBytes(rowTables(k)), 0, 31))] : [];
  const build = (machine: Machine) =>
    lut
      ? lowbitLut.build(name, shape, lowbitLut.defaultSchedule(shape, machine))
      : lowbitMatmul.build(name, shape, lowbitMatmul.defaultSchedule(shape, machine));
  return {
    name,
    build,
    buffers: [
      ...tables,
      ...inputs,
      ...(residual ? [bytesOf(randomFloats(i + 7, out.length))] : []),
      bytesOf(out),
    ],
    scalars: [n],
  };
}

function quantizeCase(i: number): KernelTestCase {
  const random = randomUniform(500 + i);
  const k = 1 + Math.floor(random() * 400);
  const n = 1 + Math.floor(random() * 5);
  const stride = rowStride(k);
  const name = `quantize_${i}`;
  return {
    name,
    build: (machine) => quantize.build(name, { k }, quantize.defaultSchedule({ k }, machine)),
    buffers: [
      bytesOf(randomFloats(i, n * stride)),
      new Uint8Array(n * stride),
      new Uint8Array(4 * n),
      new Uint8Array(4 * n),
    ],
    scalars: [n],
  };
}

const bytesOfRandom = (seed: number, count: number) => Uint8Array.from(randomInts(seed, count, 0, 255));

/** f16 of about 1. */
const halves = (seed: number, count: number) =>
  bytesOf(Uint16Array.from(randomInts(seed, count, 0x3800, 0x3fff)));

/**
 * Weights in groups: all bits, all kinds of activations and of zeros; any bytes are codes. With `tables`, they are looked
 * up: any bytes below 32 are exact tables, any bytes at all the others.
 */
function groupCase(i: number, tables?: TableForm): KernelTestCase {
  const random = randomUniform(900 + i);
  const between = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  const [m, k] = [between(1, 100), between(1, 300)];
  const n = i % 2 === 0 ? 1 : between(2, 15);
  const bits = tables === undefined ? [1, 2, 3, 4, 8][i % 5]! : 1 + (i % 4);
  const zeros = (['none', 'u8', 'f16', 'f32'] as const)[(tables === undefined ? i : i >> 2) % 4]!;
  const activationGroup = [32, 64, 128][i % 3]!;
  const group = i % 7 === 0 ? k : 2 * activationGroup;
  const bytes = tables !== undefined && isBytes(tables);
  const to: GroupShape['to'] = bytes ? 'sums' : random() < 0.5 ? 'int8' : 'int16';
  // Any 4 of `sums` add up to a byte.
  const most = bytes ? 63 : 127;
  const shape: GroupShape = {
    ...{ m, k, bits, group, activationGroup, zeros, to },
    zero: zeros === 'none' ? (bits === 1 ? 0.5 : 2 ** (bits - 1)) : 0,
    scales: 'f16',
    residual: random() < 0.5,
    batch: n === 1 ? 'one' : 'many',
    encoding: tables === undefined ? 'code-tiles' : 'bit-planes',
  };
  const parts = n * rowStride(Math.ceil(k / activationGroup));
  const [rows, groups] = [rowStride(m), Math.ceil(k / group)];
  const lanes = { none: [], u8: [bytesOfRandom(i + 3, rows * groups)] };
  const floatZeros = { f16: halves(i + 3, rows * groups), f32: bytesOf(randomFloats(i + 3, rows * groups)) };
  const name = `group_${tables ?? 'mad'}_${i}`;
  const build = (machine: Machine) => {
    if (tables === undefined) {
      return groupMatmul.build(name, shape, groupMatmul.defaultSchedule(shape, machine));
    }
    const lookup = { ...shape, tables };
    if (tables === 'bits') {
      return groupPopcount.build(name, lookup, groupPopcount.defaultSchedule(lookup, machine));
    }
    return groupLut.build(name, lookup, groupLut.defaultSchedule(lookup, machine));
  };
  return {
    name,
    build,
    buffers: [
      ...(tables === undefined
        ? []
        : [Uint8Array.from(randomInts(i + 8, n * tableBytes({ ...shape, tables }), 0, bytes ? 255 : 31))]),
      ...(bytes ? [bytesOf(Int32Array.from(randomInts(i + 9, parts, 1, 9999)))] : []),
      bytesOf(Int8Array.from(randomInts(i, (to === 'int16' ? 2 : 1) * n * rowStride(k), -most, most))),
      bytesOf(randomFloats(i + 1, parts)),
      bytesOf(Int32Array.from(randomInts(i + 2, parts, -9999, 9999))),
      bytesOfRandom(i + 4, (rows * rowStride(k) * bits) / 8),
      halves(i + 5, rows * groups),
      ...(shape.residual ? [bytesOf(randomFloats(i + 7, n * rows))] : []),
      ...(zeros === 'f16' || zeros === 'f32' ? [floatZeros[zeros]] : lanes[zeros]),
      new Uint8Array(4 * n * rows),
    ],
    scalars: [n],
  };
}

/** Llama.cpp's Q2_K, Q4_K and Q6_K in turns. */
const BLOCK_FORMS = [
  { bits: 2, group: 16, scaleCodes: 'u4', zeroCodes: 'u4', zero: 0 },
  { bits: 4, group: 32, scaleCodes: 'u8', zeroCodes: 'u8', zero: 0 },
  { bits: 6, group: 16, scaleCodes: 'i8', zeroCodes: 'none', zero: 32 },
] as const;

function blocksCase(i: number): KernelTestCase {
  const random = randomUniform(990 + i);
  const form = BLOCK_FORMS[i % 3]!;
  const [m, n] = [1 + Math.floor(random() * 90), i < 3 ? 1 : 1 + Math.floor(random() * 9)];
  const [k, to] = [256 * (1 + (i % 2)), i % 2 === 0 ? 'int16' : 'int8'] as const;
  const batch = n === 1 ? 'one' : 'many';
  const shape: BlockShape = {
    ...{ m, k, ...form, block: 256, to, batch },
    residual: random() < 0.5,
    encoding: 'code-tiles',
  };
  const [rows, groups, blocks] = [rowStride(m), k / form.group, k / 256];
  const lanes = (seed: number) => bytesOfRandom(seed, (rows * groups) / (form.scaleCodes === 'u4' ? 2 : 1));
  const name = `blocks_${i}`;
  return {
    name,
    build: (machine) => groupBlocks.build(name, shape, groupBlocks.defaultSchedule(shape, machine)),
    buffers: [
      bytesOf(Int8Array.from(randomInts(i, (to === 'int8' ? 1 : 2) * n * k, -127, 127))),
      bytesOf(randomFloats(i + 1, n * rowStride(blocks))),
      bytesOf(Int32Array.from(randomInts(i + 2, n * rowStride(groups), -9999, 9999))),
      bytesOfRandom(i + 3, (rows * k * form.bits) / 8),
      halves(i + 4, rows * blocks),
      ...(shape.residual ? [bytesOf(randomFloats(i + 5, n * rows))] : []),
      lanes(i + 6),
      ...(form.zeroCodes === 'none' ? [] : [halves(i + 7, rows * blocks), lanes(i + 8)]),
      new Uint8Array(4 * n * rows),
    ],
    scalars: [n],
  };
}

function tablesCase(i: number): KernelTestCase {
  const random = randomUniform(970 + i);
  const [k, n] = [1 + Math.floor(random() * 300), 1 + Math.floor(random() * 3)];
  const tables = (['exact', 'exact', 'int8', 'int8', 'bits'] as const)[i]!;
  const bytes = isBytes(tables);
  const to = bytes ? 'sums' : i % 2 === 0 ? 'int8' : 'int16';
  const most = bytes ? 63 : 127;
  const shape = { k, activationGroup: [32, 128][i % 2]!, to, tables } as const;
  const name = `tables_${i}`;
  const biases = 4 * n * rowStride(Math.ceil(k / shape.activationGroup));
  return {
    name,
    build: (machine) => lutTables.build(name, shape, lutTables.defaultSchedule(shape, machine)),
    buffers: [
      bytesOf(Int8Array.from(randomInts(i, (to === 'int16' ? 2 : 1) * n * rowStride(k), -most, most))),
      new Uint8Array(n * tableBytes(shape)),
      ...(bytes ? [new Uint8Array(biases)] : []),
    ],
    scalars: [n],
  };
}

function quantizeGroupCase(i: number): KernelTestCase {
  const random = randomUniform(950 + i);
  const k = 1 + Math.floor(random() * 300);
  const n = 1 + Math.floor(random() * 4);
  const from = ([undefined, 'f32', 'f16', 'int8'] as const)[Math.max(i - 3, 0)];
  const to = from ? 'sums' : i % 2 === 0 ? 'int8' : 'int16';
  const shape = { k, group: 64, to, ordered: i % 4 < 2, ...(from && { from }) } as const;
  const parts = 4 * n * rowStride(Math.ceil(k / 64));
  const name = `quantize_group_${i}`;
  return {
    name,
    build: (machine) => quantizeGroup.build(name, shape, quantizeGroup.defaultSchedule(shape, machine)),
    buffers: [
      bytesOf(randomFloats(i, n * rowStride(k))),
      ...(shape.ordered ? [bytesOf(Int32Array.from(randomInts(i + 1, k, 0, k - 1)))] : []),
      new Uint8Array((to === 'int16' ? 2 : 1) * n * rowStride(k)),
      new Uint8Array(parts),
      new Uint8Array(parts),
    ],
    scalars: [n],
  };
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

export const KERNEL_CASES: readonly KernelTestCase[] = [
  ...range(24).map((i) => (i % 4 === 3 ? quantizeCase(i) : matmulCase(i))),
  ...range(4).map((i) => matmulCase(i + 30, true)),
  ...range(10).map((i) => groupCase(i)),
  ...range(4).map((i) => groupCase(i, 'exact')),
  ...range(2).map((i) => groupCase(i + 8, i === 0 ? 'int8' : 'fast')),
  ...range(2).map((i) => groupCase(i + 10, 'bits')),
  ...range(6).map(blocksCase),
  ...range(5).map(tablesCase),
  ...range(7).map(quantizeGroupCase),
];

/** Whether a kernel left in its buffers what the interpreter computes of it, as it is scheduled for plain C. */
export function isRight({ build, buffers, scalars }: KernelTestCase, got: readonly Uint8Array[]): boolean {
  const expected = buffers.map((b) => b.slice());
  runFunction(build(C_MACHINES.at(-1)!), { buffers: expected, scalars });
  return expected.every((bytes, i) => Buffer.compare(bytes, got[i]!) === 0);
}
