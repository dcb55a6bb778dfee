/** How weights lie in memory: by name, what a constant's `encoding` means. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import type { Constant, DType } from '../graph/ir.ts';
import type { StoredFloats } from '../models/tensors.ts';
import { materialize, type TernaryWeight, type Weight } from '../models/weights.ts';
import {
  int8RowsBytes,
  packInt8Rows,
  packPaddedRows,
  packRows,
  paddedRowsBytes,
  unpackInt8Rows,
  unpackPaddedRows,
} from './dense.ts';
import { type GroupedFormat, groupedRowsBytes, packGroupedRows, unpackGroupedRows } from './grouped-rows.ts';
import { packScanNorms, scanNormsBytes } from './scan-norms.ts';
import { i2Bytes, packI2, unpackI2 } from './ternary-i2.ts';

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
  /** Packs; a region may share memory with the weight. Throws `internal` for a weight it cannot hold. */
  pack(weight: Weight, matrix: Matrix): readonly Uint8Array[];
  /** The plain reading of the layout, [rows, cols]: trits, or floats. */
  unpack(regions: readonly Uint8Array[], matrix: Matrix): Int8Array | Float32Array;
}

function ternary(weight: Weight, encoding: string): TernaryWeight {
  if (weight.kind === 'ternary') return weight;
  throw new LutraError('internal', `${encoding} holds ternary weights, not ${weight.stored.dtype}`);
}

function floats(weight: Weight, encoding: string): StoredFloats {
  if (weight.kind === 'float') return weight.stored;
  throw new LutraError('internal', `${encoding} holds floats, not ternary weights`);
}

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
      pack: (weight, { rows, cols }) => [packGroupedRows(floats(weight, name), rows, cols, format).table],
      unpack,
    },
    {
      name: `${name}-scan`,
      bytes: ({ rows, cols }) => [groupedRowsBytes(format, rows, cols), scanNormsBytes(rows)],
      pack(weight, { rows, cols }) {
        const { table, norms } = packGroupedRows(floats(weight, name), rows, cols, format);
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
    name: 'int8-rows',
    bytes: ({ rows, cols }) => int8RowsBytes(rows, cols),
    pack: (weight, { rows, cols }) => packInt8Rows(floats(weight, 'int8-rows'), rows, cols),
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
    pack: (weight) => [packRows(floats(weight, 'rows'))],
    unpack: ([bytes]) => new Float32Array(bytes!.slice().buffer),
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
  return encoding.pack(await materialize(constant, checkpoint), matrix);
}
