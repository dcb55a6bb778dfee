/**
 * Matrices quantized in groups of columns, whatever they come from: every format is a function from its
 * `GroupSource` to a `GroupMatrix`, one matrix at a time.
 */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { LutraError } from '../../common/errors.ts';
import type { GroupPart, GroupSource } from '../../graph/ir.ts';
import type { StoredFloats } from '../tensors.ts';
import { readAbsMean } from './absmean.ts';
import { readAwq } from './awq.ts';
import { readGptq } from './gptq.ts';
import type { GroupMatrix } from './matrix.ts';
import { readParts } from './parts.ts';
import { readRounded } from './round.ts';

function readGroupMatrix(source: GroupSource, checkpoint: Checkpoint): Promise<GroupMatrix> {
  switch (source.format) {
    case 'round':
      return readRounded(source, checkpoint);
    case 'absmean':
      return readAbsMean(source, checkpoint);
    case 'gptq':
      return readGptq(source, checkpoint);
    case 'awq':
      return readAwq(source, checkpoint);
    case 'parts':
      return readParts(source, checkpoint);
  }
}

type SmallParts = Omit<GroupMatrix, 'codes'>;

/** What belongs to codes already read, until it is asked for too. */
const smallParts = new WeakMap<Checkpoint, Map<string, SmallParts>>();

async function readSmallParts(source: GroupSource, checkpoint: Checkpoint): Promise<SmallParts> {
  const known = smallParts.get(checkpoint)?.get(JSON.stringify(source));
  if (known !== undefined) return known;
  await readCodes(source, checkpoint);
  return readSmallParts(source, checkpoint);
}

/** The codes, and the shape they are in. The other parts are kept, so that they need not be read again. */
export async function readCodes(source: GroupSource, checkpoint: Checkpoint): Promise<GroupMatrix> {
  const matrix = await readGroupMatrix(source, checkpoint);
  const { codes: _, ...parts } = matrix;
  const kept = smallParts.get(checkpoint) ?? new Map<string, SmallParts>();
  smallParts.set(checkpoint, kept.set(JSON.stringify(source), parts));
  return matrix;
}

function missing(source: GroupSource, part: GroupPart): never {
  throw new LutraError('internal', `${source.tensor}, quantized as ${source.format}, has no ${part}`);
}

export async function readScales(source: GroupSource, checkpoint: Checkpoint): Promise<StoredFloats> {
  return (await readSmallParts(source, checkpoint)).scales;
}

/** Integers in units of codes, or floats; throws `internal` for a source that has none. */
export async function readZeros(
  source: GroupSource,
  checkpoint: Checkpoint,
): Promise<Uint8Array | StoredFloats> {
  return (await readSmallParts(source, checkpoint)).zeros ?? missing(source, 'zeros');
}

/** Integers of groups in units of their block's scale or zero, a byte each. */
export async function readGroupCodes(
  source: GroupSource,
  part: 'scaleCodes' | 'zeroCodes',
  checkpoint: Checkpoint,
): Promise<Uint8Array> {
  return (await readSmallParts(source, checkpoint))[part] ?? missing(source, part);
}

export async function readOrder(source: GroupSource, checkpoint: Checkpoint): Promise<Int32Array> {
  return (await readSmallParts(source, checkpoint)).order ?? missing(source, 'order');
}
