/**
 * Evaluates the recipes of constants (`WeightSource`) over a checkpoint, one constant at a time: at most
 * the tensors of one constant are in memory, in the form the checkpoint has them.
 */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { type HalfFormat, narrowFloats } from '../common/halves.ts';
import type { CodeBits, Constant, WeightSource } from '../graph/ir.ts';
import type { Numbers } from '../graph/step.ts';
import { codeBits, isCode } from '../graph/types.ts';
import { readCodes, readGroupCodes, readOrder, readScales, readZeros } from './group/group.ts';
import { ropeTable } from './rope.ts';
import { readFloats, readU8, type StoredFloats, toF32 } from './tensors.ts';
import { checkCodes, inverseAbsMean, quantizeAbsMean, type TernaryRows, tritsOf } from './ternary.ts';

/** A matrix of trits, [rows, cols]: its blocks of rows from the first to the last. */
export interface TernaryWeight {
  readonly kind: 'ternary';
  readonly rows: number;
  readonly cols: number;
  readonly blocks: readonly TernaryRows[];
}

/** A matrix of codes, a code a byte (of i8, as its bits are): its blocks of rows from the first to the last. */
export interface CodesWeight {
  readonly kind: 'codes';
  readonly bits: CodeBits;
  readonly rows: number;
  readonly cols: number;
  readonly blocks: readonly { readonly rows: number; readonly codes: Uint8Array }[];
}

/** Indices of columns. */
interface OrderWeight {
  readonly kind: 'order';
  readonly values: Int32Array;
}

/** Floats of the constant's dtype, row-major. */
interface FloatWeight {
  readonly kind: 'float';
  readonly stored: StoredFloats;
}

export type Weight = TernaryWeight | CodesWeight | OrderWeight | FloatWeight;

function fixedShape(constant: Constant): readonly number[] {
  return constant.type.shape.map((dim) => {
    if (typeof dim === 'number') return dim;
    throw new LutraError('internal', `constant ${constant.name} has the symbolic size ${dim}`);
  });
}

/** Rows of a part of a concatenation, which only the checkpoint knows; 0 where the tensor is missing. */
function storedRows(checkpoint: Checkpoint, tensor: string): number {
  return checkpoint.tensors.get(tensor)?.shape[0] ?? 0;
}

/** s of tensors already read, as both the trits and the scale of a matrix need it. */
const knownInverses = new WeakMap<Checkpoint, Map<string, number>>();

/** s of `inverseAbsMean` for a tensor; `weights` are its values where they are at hand. */
async function readInverseAbsMean(
  checkpoint: Checkpoint,
  tensor: string,
  weights?: StoredFloats,
): Promise<number> {
  const inverses = knownInverses.get(checkpoint) ?? new Map<string, number>();
  knownInverses.set(checkpoint, inverses);
  const known = inverses.get(tensor);
  if (known !== undefined) return known;
  const shape = checkpoint.tensors.get(tensor)?.shape ?? [];
  const inverse = inverseAbsMean(weights ?? (await readFloats(checkpoint, tensor, [shape])), tensor);
  inverses.set(tensor, inverse);
  return inverse;
}

async function readTernary(
  source: WeightSource,
  checkpoint: Checkpoint,
  cols: number,
  rows?: number,
): Promise<readonly TernaryRows[]> {
  switch (source.kind) {
    case 'packed-ternary': {
      const quarter = rows === undefined ? storedRows(checkpoint, source.tensor) : rows / 4;
      const bytes = await readU8(checkpoint, source.tensor, [quarter, cols]);
      checkCodes(bytes, source.tensor);
      return [{ form: 'packed', rows: quarter * 4, bytes }];
    }
    case 'absmean-ternary': {
      const height = rows ?? storedRows(checkpoint, source.tensor);
      const weights = await readFloats(checkpoint, source.tensor, [[height, cols]]);
      const trits = quantizeAbsMean(weights, await readInverseAbsMean(checkpoint, source.tensor, weights));
      return [{ form: 'trits', rows: height, trits }];
    }
    case 'concat': {
      const blocks: TernaryRows[] = [];
      for (const part of source.parts) blocks.push(...(await readTernary(part, checkpoint, cols)));
      return blocks;
    }
    case 'data':
      return [{ form: 'trits', rows: source.values.length / cols, trits: Int8Array.from(source.values) }];
    default:
      throw new LutraError('internal', `a ternary constant cannot come from the source ${source.kind}`);
  }
}

/**
 * Trained weights have mean|w| up to a few units (microsoft/bitnet-b1.58-2B-4T: 0.7 to 4.6) and reach far
 * below 1 without sub-norms; the reciprocal of a small one is far above.
 */
const LARGEST_SCALE = 16;

/** One stored value, applied as the quantization's class of linear layers does it. */
async function readScale(
  { tensor, direction }: Extract<WeightSource, { readonly kind: 'scale' }>,
  checkpoint: Checkpoint,
): Promise<number> {
  const stored = toF32(await readFloats(checkpoint, tensor, [[1], [], [1, 1]]))[0]!;
  const scale = direction === 'multiply' ? stored : 1 / stored;
  if (!Number.isFinite(scale) || scale <= 0) {
    throw new LutraError('invalid', `tensor ${tensor} is ${stored}, expected a finite scale above 0`);
  }
  if (scale > LARGEST_SCALE) {
    const applied = direction === 'multiply' ? 'multiplied by' : 'divided by';
    const [other, linear] =
      direction === 'multiply' ? ['divided by', 'bitlinear'] : ['multiplied by', 'autobitlinear'];
    throw new LutraError(
      'invalid',
      `tensor ${tensor} is ${stored}, but config.json says that outputs are ${applied} it, which no trained model does`,
      {
        hint: `If outputs are to be ${other} it, set quantization_config.linear_class in config.json to "${linear}".`,
      },
    );
  }
  return scale;
}

/** A float source in float64, so that nothing is rounded that the reference executor could tell. */
async function readExact(
  source: WeightSource,
  checkpoint: Checkpoint,
  shape?: readonly number[],
): Promise<Float64Array | Float32Array> {
  switch (source.kind) {
    case 'tensor': {
      const stored = checkpoint.tensors.get(source.tensor)?.shape ?? [];
      return toF32(await readFloats(checkpoint, source.tensor, [shape ?? stored]));
    }
    case 'adjusted': {
      const { tensor, plus, factor, times } = source;
      const stored = toF32(
        await readFloats(checkpoint, tensor, [checkpoint.tensors.get(tensor)?.shape ?? []]),
      );
      const { length } = stored;
      return Float64Array.from({ length: length * times }, (_, i) => (stored[i % length]! + plus) * factor);
    }
    case 'scale':
      return new Float64Array(source.rows).fill(await readScale(source, checkpoint));
    case 'absmean-scale':
      return new Float64Array(source.rows).fill(1 / (await readInverseAbsMean(checkpoint, source.tensor)));
    case 'scales':
      return toF32(await readScales(source.of, checkpoint));
    case 'zeros': {
      const zeros = await readZeros(source.of, checkpoint);
      if (!(zeros instanceof Uint8Array)) return toF32(zeros);
      throw new LutraError('internal', `the zeros of ${source.of.tensor} are integers`);
    }
    case 'rope-table':
      return ropeTable(source);
    case 'data':
      return Float64Array.from(source.values);
    case 'concat': {
      const parts: (Float64Array | Float32Array)[] = [];
      for (const part of source.parts) parts.push(await readExact(part, checkpoint));
      const joined = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
      let at = 0;
      for (const part of parts) {
        joined.set(part, at);
        at += part.length;
      }
      return joined;
    }
    default:
      throw new LutraError('internal', `a float constant cannot come from the source ${source.kind}`);
  }
}

function checkLength(constant: Constant, found: number): void {
  const expected = fixedShape(constant).reduce((product, dim) => product * dim, 1);
  if (found !== expected) {
    throw new LutraError(
      'invalid',
      `constant ${constant.name} has ${found} values in the checkpoint, expected ${expected}`,
    );
  }
}

async function readTernaryWeight(constant: Constant, checkpoint: Checkpoint): Promise<TernaryWeight> {
  const [rows, cols] = fixedShape(constant);
  if (rows === undefined || cols === undefined) {
    throw new LutraError('internal', `the ternary constant ${constant.name} is no matrix`);
  }
  const blocks = await readTernary(constant.source, checkpoint, cols, rows);
  checkLength(constant, cols * blocks.reduce((sum, block) => sum + block.rows, 0));
  return { kind: 'ternary', rows, cols, blocks };
}

/** Stored tensors of 16-bit floats below each other, without a detour by wider ones. */
async function readHalves(
  parts: readonly Extract<WeightSource, { readonly kind: 'tensor' }>[],
  dtype: HalfFormat,
  checkpoint: Checkpoint,
): Promise<StoredFloats> {
  const read: Uint16Array[] = [];
  for (const { tensor } of parts) {
    const stored = await readFloats(checkpoint, tensor, [checkpoint.tensors.get(tensor)?.shape ?? []]);
    read.push(stored.dtype === dtype ? stored.bits : narrowFloats(toF32(stored), dtype));
  }
  const length = read.reduce((sum, bits) => sum + bits.length, 0);
  return { dtype, bits: joinBlocks(read, new Uint16Array(length)) };
}

/** Codes of the weights themselves, or the zeros or scales of groups. */
async function readCodeRows(
  source: WeightSource,
  checkpoint: Checkpoint,
  cols: number,
): Promise<CodesWeight['blocks']> {
  switch (source.kind) {
    case 'codes': {
      const { rows, codes } = await readCodes(source.of, checkpoint);
      return [{ rows, codes }];
    }
    case 'zeros': {
      const zeros = await readZeros(source.of, checkpoint);
      if (zeros instanceof Uint8Array) return [{ rows: zeros.length / cols, codes: zeros }];
      throw new LutraError('internal', `the zeros of ${source.of.tensor} are floats`);
    }
    case 'scaleCodes':
    case 'zeroCodes': {
      const codes = await readGroupCodes(source.of, source.kind, checkpoint);
      return [{ rows: codes.length / cols, codes }];
    }
    case 'concat': {
      const blocks: CodesWeight['blocks'][number][] = [];
      for (const part of source.parts) blocks.push(...(await readCodeRows(part, checkpoint, cols)));
      return blocks;
    }
    case 'data':
      return [{ rows: source.values.length / cols, codes: Uint8Array.from(source.values) }];
    default:
      throw new LutraError('internal', `codes cannot come from the source ${source.kind}`);
  }
}

async function readCodesWeight(constant: Constant, checkpoint: Checkpoint): Promise<CodesWeight> {
  const [rows, cols] = fixedShape(constant);
  const { dtype } = constant.type;
  const bits = dtype === 'i8' ? 8 : codeBits(dtype);
  if (rows === undefined || cols === undefined || bits === undefined) {
    throw new LutraError('internal', `the constant ${constant.name} is no matrix of codes`);
  }
  const blocks = await readCodeRows(constant.source, checkpoint, cols);
  checkLength(
    constant,
    blocks.reduce((sum, { codes }) => sum + codes.length, 0),
  );
  return { kind: 'codes', bits, rows, cols, blocks };
}

async function readIndices(constant: Constant, checkpoint: Checkpoint): Promise<Int32Array> {
  const { source } = constant;
  if (source.kind !== 'order' && source.kind !== 'data') {
    throw new LutraError(
      'internal',
      `the constant ${constant.name} cannot come from the source ${source.kind}`,
    );
  }
  const values =
    source.kind === 'data' ? Int32Array.from(source.values) : await readOrder(source.of, checkpoint);
  checkLength(constant, values.length);
  return values;
}

/** The parts one after the other. */
function joinBlocks<T extends Int8Array | Uint8Array | Uint16Array>(parts: readonly T[], whole: T): T {
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * The values of a constant as its dtype says. Throws `not-found` for a tensor that is missing, `invalid` for
 * one of another dtype or shape, with codes that are no trits, or with a scale that makes no sense.
 */
export async function materialize(constant: Constant, checkpoint: Checkpoint): Promise<Weight> {
  const { dtype } = constant.type;
  if (dtype === 'ternary') return readTernaryWeight(constant, checkpoint);
  if (isCode(dtype) || dtype === 'i8') return readCodesWeight(constant, checkpoint);
  if (dtype === 'i32') return { kind: 'order', values: await readIndices(constant, checkpoint) };
  if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16') {
    throw new LutraError('internal', `constant ${constant.name} has the dtype ${dtype}`);
  }
  const { source } = constant;
  const stored: StoredFloats =
    source.kind === 'tensor'
      ? await readFloats(checkpoint, source.tensor, [fixedShape(constant)])
      : source.kind === 'concat' && dtype !== 'f32' && source.parts.every((part) => part.kind === 'tensor')
        ? await readHalves(source.parts, dtype, checkpoint)
        : { dtype: 'f32', values: Float32Array.from(await readExact(source, checkpoint)) };
  checkLength(constant, stored.dtype === 'f32' ? stored.values.length : stored.bits.length);
  if (stored.dtype === dtype) return { kind: 'float', stored };
  const values = toF32(stored);
  return {
    kind: 'float',
    stored: dtype === 'f32' ? { dtype, values } : { dtype, bits: narrowFloats(values, dtype) },
  };
}

/** The values of a constant for the reference executor: integers, or floats that were never rounded on the way. */
export async function exactValues(constant: Constant, checkpoint: Checkpoint): Promise<Numbers> {
  if (constant.type.dtype === 'ternary') {
    const { rows, cols, blocks } = await readTernaryWeight(constant, checkpoint);
    if (blocks.length === 1) return tritsOf(blocks[0]!);
    return joinBlocks(blocks.map(tritsOf), new Int8Array(rows * cols));
  }
  const { dtype } = constant.type;
  if (isCode(dtype) || dtype === 'i8') {
    const { rows, cols, blocks } = await readCodesWeight(constant, checkpoint);
    const all = joinBlocks(
      blocks.map(({ codes }) => codes),
      new Uint8Array(rows * cols),
    );
    return dtype === 'i8' ? new Int8Array(all.buffer) : all;
  }
  if (constant.type.dtype === 'i32') return readIndices(constant, checkpoint);
  const values = await readExact(constant.source, checkpoint, fixedShape(constant));
  checkLength(constant, values.length);
  return values;
}
