import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import { encodedBytes } from '../encodings/encoding.ts';
import type { Constant } from '../graph/ir.ts';
import { LINE } from '../loops/ir.ts';
import type { WeightRegion, WeightSlot } from './types.ts';

/** Gives every constant its place in the weights file, in graph order. */
export function placeWeights(constants: readonly Constant[]): {
  readonly slots: readonly WeightSlot[];
  readonly bytes: number;
} {
  let offset = 0;
  const slots = constants.map((constant): WeightSlot => {
    if (constant.encoding === undefined) {
      throw new LutraError('internal', `plan: constant ${constant.name} has no encoding`, {
        hint: 'Run the pass choose-encodings first.',
      });
    }
    const regions = encodedBytes(constant).map((bytes): WeightRegion => {
      const region = { offset, bytes };
      offset = alignUp(offset + bytes, LINE);
      return region;
    });
    return { constant: constant.name, encoding: constant.encoding, regions };
  });
  return { slots, bytes: offset };
}
