import type { Checkpoint, StoredDType, TensorInfo } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { type HalfFormat, widenHalves } from '../common/halves.ts';

const ELEMENT_BYTES: Readonly<Record<StoredDType, number>> = {
  bf16: 2,
  f16: 2,
  f32: 4,
  u8: 1,
  i8: 1,
  i32: 4,
};

export const FLOAT_DTYPES = ['bf16', 'f16', 'f32'] as const;

/** What a tensor must be: one of these dtypes and one of these shapes. */
export interface TensorDemand {
  readonly dtypes: readonly StoredDType[];
  readonly shapes: readonly (readonly number[])[];
}

function shapeText(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}

function demandText({ dtypes, shapes }: TensorDemand): string {
  return `${dtypes.join(' or ')} ${shapes.map(shapeText).join(' or ')}`;
}

/**
 * The header of a tensor. Throws `not-found` when the checkpoint has no such tensor and `invalid` when it
 * is something else than expected; both messages say what was expected.
 */
export function demandTensor(checkpoint: Checkpoint, name: string, demand: TensorDemand): TensorInfo {
  const info = checkpoint.tensors.get(name);
  if (info === undefined) {
    throw new LutraError('not-found', `${checkpoint.path} has no tensor ${name} (${demandText(demand)})`, {
      hint: 'Check that all weight files of the model are in the folder and belong to its config.json.',
    });
  }
  const sameShape = demand.shapes.some(
    (shape) => shape.length === info.shape.length && shape.every((size, axis) => size === info.shape[axis]),
  );
  if (!demand.dtypes.includes(info.dtype) || !sameShape) {
    const found = `${info.dtype} ${shapeText(info.shape)}`;
    throw new LutraError('invalid', `tensor ${name} is ${found}, expected ${demandText(demand)}`, {
      hint: 'Check that config.json belongs to these weights.',
    });
  }
  return info;
}

/** Reads a tensor's bytes into memory that typed arrays of its element size can view. */
async function readBytes(checkpoint: Checkpoint, info: TensorInfo): Promise<Uint8Array> {
  const size = ELEMENT_BYTES[info.dtype];
  const expected = info.shape.reduce((product, dim) => product * dim, size);
  const bytes = await checkpoint.read(info.name);
  if (bytes.length !== expected) {
    throw new LutraError('invalid', `tensor ${info.name} has ${bytes.length} bytes, expected ${expected}`);
  }
  return bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
}

/** A float tensor as stored: f32 values, or the bits of 16-bit floats. */
export type StoredFloats =
  | { readonly dtype: 'f32'; readonly values: Float32Array }
  | { readonly dtype: HalfFormat; readonly bits: Uint16Array };

/** Reads a float tensor of one of the given shapes; throws as `demandTensor` does. */
export async function readFloats(
  checkpoint: Checkpoint,
  name: string,
  shapes: TensorDemand['shapes'],
): Promise<StoredFloats> {
  const info = demandTensor(checkpoint, name, { dtypes: FLOAT_DTYPES, shapes });
  const { buffer, byteOffset, length } = await readBytes(checkpoint, info);
  return info.dtype === 'f32'
    ? { dtype: 'f32', values: new Float32Array(buffer, byteOffset, length / 4) }
    : { dtype: info.dtype as HalfFormat, bits: new Uint16Array(buffer, byteOffset, length / 2) };
}

/** Reads a u8 tensor of the given shape; throws as `demandTensor` does. */
export async function readU8(
  checkpoint: Checkpoint,
  name: string,
  shape: readonly number[],
): Promise<Uint8Array> {
  return readBytes(checkpoint, demandTensor(checkpoint, name, { dtypes: ['u8'], shapes: [shape] }));
}

/** Reads an i32 tensor of the given shape as unsigned words; throws as `demandTensor` does. */
export async function readWords(
  checkpoint: Checkpoint,
  name: string,
  shape: readonly number[],
): Promise<Uint32Array> {
  const info = demandTensor(checkpoint, name, { dtypes: ['i32'], shapes: [shape] });
  const { buffer, byteOffset, length } = await readBytes(checkpoint, info);
  return new Uint32Array(buffer, byteOffset, length / 4);
}

export function toF32(stored: StoredFloats): Float32Array {
  return stored.dtype === 'f32' ? stored.values : widenHalves(stored.bits, stored.dtype);
}
