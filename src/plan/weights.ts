import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import type { Constant, DType } from '../graph/ir.ts';
import { ROW_PAD } from '../kernels/kernel.ts';
import { LINE } from '../loops/ir.ts';
import type { WeightRegion, WeightSlot } from './types.ts';

const BYTES: Record<Exclude<DType, 'ternary'>, number> = { f32: 4, f16: 2, bf16: 2, i8: 1, i32: 4 };

/** Encodings a constant can lie in memory as; see src/encodings for the layouts. */
export function encodingOf(constant: Constant): string {
  if (constant.encoding !== undefined) return constant.encoding;
  if (constant.source.kind === 'rope-table') return 'rows';
  return 'padded-rows';
}

/** Bytes of every region of a constant. `positions` limits tables that have a row per position. */
function regionBytes(constant: Constant, positions: number): readonly number[] {
  const { dtype, shape } = constant.type;
  if (shape.some((d) => typeof d !== 'number')) {
    throw new LutraError('internal', `plan: constant ${constant.name} has a symbolic shape`);
  }
  const dims = shape as readonly number[];
  const rows = dims.length === 1 ? 1 : dims[0]!;
  const width = dims.at(-1)!;
  const encoding = encodingOf(constant);
  switch (encoding) {
    case 'i2':
      return [(alignUp(rows, ROW_PAD) * alignUp(width, ROW_PAD)) / 4];
    case 'int8-rows':
      return [rows * alignUp(width, ROW_PAD), alignUp(rows, ROW_PAD) * 4];
    case 'rows':
      return [Math.min(rows, positions) * width * BYTES.f32];
    case 'padded-rows':
      if (dtype === 'ternary') break;
      return [rows * alignUp(width, ROW_PAD) * BYTES[dtype]];
  }
  throw new LutraError('internal', `plan: constant ${constant.name} cannot be laid out as ${encoding}`);
}

/** Gives every constant its place in the weights file, in graph order. */
export function placeWeights(
  constants: readonly Constant[],
  positions: number,
): { readonly slots: readonly WeightSlot[]; readonly bytes: number } {
  let offset = 0;
  const slots = constants.map((constant): WeightSlot => {
    const regions = regionBytes(constant, positions).map((bytes, i): WeightRegion => {
      const region = { name: i === 0 ? constant.name : `${constant.name}.scales`, offset, bytes };
      offset = alignUp(offset + bytes, LINE);
      return region;
    });
    return { constant: constant.name, encoding: encodingOf(constant), regions };
  });
  return { slots, bytes: offset };
}
