/** Rounding float weights to trits by their mean magnitude, as BitNet b1.58 does: what `--bits ternary` does. */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { f16ToF32, f32ToF16 } from '../../common/halves.ts';
import type { GroupSource } from '../../graph/ir.ts';
import { readFloats, type StoredFloats } from '../tensors.ts';
import { absMeanTrit, inverseAbsMean } from '../ternary.ts';
import { type GroupMatrix, groupCount, middleCode } from './matrix.ts';
import { noteError, pauseAt, readRow } from './round.ts';

type AbsMeanSource = Extract<GroupSource, { readonly format: 'absmean' }>;

/** A tensor's one scale is exactly BitNet's; those of groups are rounded, as they are of other codes. */
export function absMeanScaleType(per: AbsMeanSource['per']): 'f16' | 'f32' {
  return per === 'tensor' ? 'f32' : 'f16';
}

/** Rounds a stored matrix; throws `invalid` for weights that are not finite or too large for a scale in f16. */
export async function readAbsMean(
  { tensor, per, bits, group }: AbsMeanSource,
  checkpoint: Checkpoint,
): Promise<GroupMatrix> {
  const [rows = 0, cols = 0] = checkpoint.tensors.get(tensor)?.shape ?? [];
  const stored = await readFloats(checkpoint, tensor, [[rows, cols]]);
  const inverseOfAll = per === 'tensor' ? inverseAbsMean(stored, tensor) : undefined;
  const groups = groupCount(cols, group);
  const codes = new Uint8Array(rows * cols);
  const halves = new Uint16Array(inverseOfAll === undefined ? rows * groups : 0);
  const zero = middleCode(bits);
  let [squares, errorSquares] = [0, 0];
  for (let row = 0; row < rows; row++) {
    await pauseAt(row, checkpoint);
    const values = readRow(stored, row, cols);
    for (let g = 0; g < groups; g++) {
      const [from, end] = [g * group, Math.min(cols, (g + 1) * group)];
      const s = inverseOfAll ?? inverseAbsMean({ dtype: 'f32', values: values.subarray(from, end) }, tensor);
      let scale = Math.fround(1 / s);
      if (inverseOfAll === undefined) {
        const half = f32ToF16(scale);
        halves[row * groups + g] = half;
        scale = f16ToF32(half);
      }
      for (let i = from; i < end; i++) {
        const value = values[i]!;
        const trit = absMeanTrit(value, s);
        codes[row * cols + i] = trit + zero;
        const error = value - scale * trit;
        squares += value * value;
        errorSquares += error * error;
      }
    }
  }
  noteError(checkpoint, tensor, errorSquares, squares);
  const scales: StoredFloats =
    inverseOfAll === undefined
      ? { dtype: 'f16', bits: halves }
      : { dtype: 'f32', values: new Float32Array(rows * groups).fill(1 / inverseOfAll) };
  return { bits, rows, cols, group, codes, scales };
}
