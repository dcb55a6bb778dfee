/** How weights lie in memory: by name, what a constant's `encoding` means. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { pauseWork } from '../checkpoint/patience.ts';
import { LutraError } from '../common/errors.ts';
import type { CodeBits, Constant, DType } from '../graph/ir.ts';
import { codeBits } from '../graph/types.ts';
import { type StoredFloats, toF32 } from '../models/tensors.ts';
import { type CodesWeight, materialize, type TernaryWeight, type Weight } from '../models/weights.ts';
import { bitPlanesBytes, packBitPlanes, unpackBitPlanes } from './bit-planes.ts';
import {
  codeTilesBytes,
  groupLanesLength,
  packCodeTiles,
  packGroupLanes,
  packNibbleLanes,
  unpackCodeTiles,
  unpackGroupLanes,
  unpackNibbleLanes,
} from './code-tiles.ts';
import {
  int8RowsBytes,
  packPaddedRows,
  packRows,
  paddedRowsBytes,
  unpackInt8Rows,
  unpackPaddedRows,
} from './dense.ts';
import { type GroupedFormat, groupedRowsBytes, unpackGroupedRows } from './grouped-rows.ts';
import { packScanNorms, scanNormsBytes } from './scan-norms.ts';
import { type Pause, packGroupedSlices, packInt8Slices } from './slices.ts';
import { ternaryCodes } from './ternary-blocks.ts';
import { i2Bytes, packI2, unpackI2 } from './ternary-i2.ts';
import { packT5b, t5bBytes, unpackT5b } from './ternary-t5b.ts';

/** A constant seen as a matrix; a vector is one row. */
interface Matrix {
  readonly dtype: DType;
  readonly rows: number;
  readonly cols: number;
}

/**
 * One layout. A matrix becomes one or more regions of bytes, each of which starts at a line of 64 bytes:
 * first its elements, then what belongs to them, as the scales of rows.
 */
interface Encoding {
  readonly name: string;
  /** Bytes of every region. */
  bytes(matrix: Matrix): readonly number[];
  /**
   * Packs; a region may share memory with the weight. Throws `internal` for a weight it cannot hold. Where that may
   * take seconds, it awaits `pause` in between.
   */
  pack(weight: Weight, matrix: Matrix, pause: Pause): readonly Uint8Array[] | Promise<readonly Uint8Array[]>;
  /** The plain reading of the layout, [rows, cols]: trits, codes, indices or floats. */
  unpack(regions: readonly Uint8Array[], matrix: Matrix): Int8Array | Uint8Array | Int32Array | Float32Array;
}

const WHAT = { ternary: 'ternary weights', codes: 'codes', order: 'indices' } as const;

function rejectWeight(weight: Weight, encoding: string, holds: string): never {
  const found = weight.kind === 'float' ? weight.stored.dtype : WHAT[weight.kind];
  throw new LutraError('internal', `${encoding} holds ${holds}, not ${found}`);
}

function ternary(weight: Weight, encoding: string): TernaryWeight {
  return weight.kind === 'ternary' ? weight : rejectWeight(weight, encoding, 'ternary weights');
}

function floats(weight: Weight, encoding: string): StoredFloats {
  return weight.kind === 'float' ? weight.stored : rejectWeight(weight, encoding, 'floats');
}

function codesOf(weight: Weight, encoding: string): CodesWeight {
  return weight.kind === 'codes' ? weight : rejectWeight(weight, encoding, 'codes');
}

function bitsOf(dtype: DType, encoding: string): CodeBits {
  const bits = codeBits(dtype);
  if (bits !== undefined) return bits;
  throw new LutraError('internal', `${encoding} holds codes, not ${dtype}`);
}

/** Of codes, or of trits + 1. */
const planesOf = (dtype: DType): CodeBits => (dtype === 'ternary' ? 2 : bitsOf(dtype, 'bit-planes'));

/** Scales and zeros of groups: f16, f32, u8 or i8; or u4. */
const groupLanes: Encoding = {
  name: 'group-lanes',
  bytes({ dtype, rows, cols }) {
    if (dtype === 'u4') return [groupLanesLength(rows, Math.ceil(cols / 2))];
    const size = { f16: 2, f32: 4, u8: 1, i8: 1 }[dtype as string];
    if (size === undefined)
      throw new LutraError('internal', `group-lanes holds f16, f32, u8, i8 or u4, not ${dtype}`);
    return [groupLanesLength(rows, cols) * size];
  },
  pack(weight, { dtype, rows, cols }) {
    const length = groupLanesLength(rows, cols);
    if (weight.kind === 'codes') {
      const values = new Uint8Array(rows * cols);
      let at = 0;
      for (const { codes } of weight.blocks) {
        values.set(codes, at);
        at += codes.length;
      }
      if (dtype === 'u4') return [packNibbleLanes(values, rows, cols)];
      return [packGroupLanes(values, rows, cols, new Uint8Array(length))];
    }
    const stored = floats(weight, 'group-lanes');
    const lanes =
      stored.dtype === 'f32'
        ? packGroupLanes(stored.values, rows, cols, new Float32Array(length))
        : packGroupLanes(stored.bits, rows, cols, new Uint16Array(length));
    return [new Uint8Array(lanes.buffer)];
  },
  unpack([bytes], { dtype, rows, cols }) {
    const { buffer } = bytes!.slice();
    const count = rows * cols;
    if (dtype === 'u4') return unpackNibbleLanes(new Uint8Array(buffer), rows, cols);
    if (dtype === 'i8') return unpackGroupLanes(new Int8Array(buffer), rows, cols, new Int8Array(count));
    if (dtype === 'u8') return unpackGroupLanes(new Uint8Array(buffer), rows, cols, new Uint8Array(count));
    if (dtype === 'f32')
      return unpackGroupLanes(new Float32Array(buffer), rows, cols, new Float32Array(count));
    const bits = unpackGroupLanes(new Uint16Array(buffer), rows, cols, new Uint16Array(count));
    return toF32({ dtype: 'f16', bits });
  },
};

function floatDType(dtype: DType, encoding: string): StoredFloats['dtype'] {
  if (dtype === 'f32' || dtype === 'f16' || dtype === 'bf16') return dtype;
  throw new LutraError('internal', `${encoding} holds floats, not ${dtype}`);
}

/** `int4-g64`, and `int4-g64-scan`, which has the norms that bound its error in a second region. */
function grouped(format: GroupedFormat): readonly Encoding[] {
  const name = `int${format.bits}-g${format.group}`;
  const unpack: Encoding['unpack'] = ([table], { rows, cols }) =>
    unpackGroupedRows(table!, rows, cols, format);
  return [
    {
      name,
      bytes: ({ rows, cols }) => [groupedRowsBytes(format, rows, cols)],
      pack: async (weight, { rows, cols }, pause) => {
        const { table } = await packGroupedSlices(floats(weight, name), rows, cols, format, pause);
        return [table];
      },
      unpack,
    },
    {
      name: `${name}-scan`,
      bytes: ({ rows, cols }) => [groupedRowsBytes(format, rows, cols), scanNormsBytes(rows)],
      async pack(weight, { rows, cols }, pause) {
        const stored = floats(weight, name);
        const { table, norms } = await packGroupedSlices(stored, rows, cols, format, pause);
        return [table, packScanNorms(norms, cols)];
      },
      unpack,
    },
  ];
}

const ENCODINGS: readonly Encoding[] = [
  ...([4, 6] as const).flatMap((bits) => ([32, 64] as const).flatMap((group) => grouped({ bits, group }))),
  {
    name: 'i2',
    bytes: ({ rows, cols }) => [i2Bytes(rows, cols)],
    pack: (weight) => [packI2(ternary(weight, 'i2'))],
    unpack: ([bytes], { rows, cols }) => unpackI2(bytes!, rows, cols),
  },
  {
    name: 't5b',
    bytes: ({ rows, cols }) => [t5bBytes(rows, cols)],
    pack: (weight) => [packT5b(ternary(weight, 't5b'))],
    unpack: ([bytes], { rows, cols }) => unpackT5b(bytes!, rows, cols),
  },
  {
    name: 'code-tiles',
    bytes: ({ dtype, rows, cols }) => [codeTilesBytes(bitsOf(dtype, 'code-tiles'), rows, cols)],
    pack: (weight) => [packCodeTiles(codesOf(weight, 'code-tiles'))],
    unpack: ([bytes], { dtype, rows, cols }) =>
      unpackCodeTiles(bytes!, bitsOf(dtype, 'code-tiles'), rows, cols),
  },
  {
    name: 'bit-planes',
    bytes: ({ dtype, rows, cols }) => [bitPlanesBytes(planesOf(dtype), rows, cols)],
    pack: (weight) => [
      packBitPlanes(weight.kind === 'ternary' ? ternaryCodes(weight) : codesOf(weight, 'bit-planes')),
    ],
    unpack([bytes], { dtype, rows, cols }) {
      const codes = unpackBitPlanes(bytes!, planesOf(dtype), rows, cols);
      return dtype === 'ternary' ? Int8Array.from(codes, (code) => code - 1) : codes;
    },
  },
  groupLanes,
  {
    name: 'int8-rows',
    bytes: ({ rows, cols }) => int8RowsBytes(rows, cols),
    pack: (weight, { rows, cols }, pause) => packInt8Slices(floats(weight, 'int8-rows'), rows, cols, pause),
    unpack: ([elements, scales], { rows, cols }) => unpackInt8Rows(elements!, scales!, rows, cols),
  },
  {
    name: 'padded-rows',
    bytes: ({ rows, cols, dtype }) => [paddedRowsBytes(rows, cols, floatDType(dtype, 'padded-rows'))],
    pack: (weight, { rows, cols }) => [packPaddedRows(floats(weight, 'padded-rows'), rows, cols)],
    unpack: ([bytes], { rows, cols, dtype }) =>
      unpackPaddedRows(bytes!, rows, cols, floatDType(dtype, 'padded-rows')),
  },
  {
    name: 'rows',
    bytes: ({ rows, cols }) => [rows * cols * 4],
    pack: (weight) => [
      weight.kind === 'order'
        ? new Uint8Array(weight.values.slice().buffer)
        : packRows(floats(weight, 'rows')),
    ],
    unpack: ([bytes], { dtype }) => {
      const { buffer } = bytes!.slice();
      return dtype === 'i32' ? new Int32Array(buffer) : new Float32Array(buffer);
    },
  },
];

const byName = new Map(ENCODINGS.map((encoding) => [encoding.name, encoding]));

/** Throws `unsupported` for a name that is no encoding, with those that are. */
export function encodingNamed(name: string): Encoding {
  const encoding = byName.get(name);
  if (encoding !== undefined) return encoding;
  throw new LutraError('unsupported', `no encoding is called ${name}`, {
    hint: `Encodings are ${[...byName.keys()].join(', ')}.`,
  });
}

/** A constant as a matrix; throws `internal` for a shape of more than two axes or a symbolic size. */
export function matrixOf({ name, type }: Constant): Matrix {
  const [rows, cols, more] = type.shape.length === 1 ? [1, ...type.shape] : type.shape;
  if (typeof rows !== 'number' || typeof cols !== 'number' || more !== undefined) {
    throw new LutraError('internal', `constant ${name} is no vector or matrix of fixed size`);
  }
  return { dtype: type.dtype, rows, cols };
}

function encodingOf({ name, encoding }: Constant): Encoding {
  if (encoding !== undefined) return encodingNamed(encoding);
  throw new LutraError('internal', `constant ${name} has no encoding`, {
    hint: 'Run the pass choose-encodings first.',
  });
}

/** Bytes of every region that a constant becomes. */
export function encodedBytes(constant: Constant): readonly number[] {
  return encodingOf(constant).bytes(matrixOf(constant));
}

/** Reads a constant from the checkpoint and packs it as its encoding says; throws as `materialize` does. */
export async function encodeConstant(
  constant: Constant,
  checkpoint: Checkpoint,
): Promise<readonly Uint8Array[]> {
  const encoding = encodingOf(constant);
  const matrix = matrixOf(constant);
  return encoding.pack(await materialize(constant, checkpoint), matrix, () => pauseWork(checkpoint));
}
