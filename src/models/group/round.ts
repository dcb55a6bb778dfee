/** Rounding float weights to codes, group by group: what `--bits` does to a checkpoint of floats. */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { pauseWork } from '../../checkpoint/patience.ts';
import { LutraError } from '../../common/errors.ts';
import { f32ToF16, widenHalves } from '../../common/halves.ts';
import type { GroupSource } from '../../graph/ir.ts';
import type { RoundingSummary } from '../info.ts';
import { readFloats, type StoredFloats } from '../tensors.ts';
import { GridSearch, ROUND } from './grid.ts';
import { type GroupMatrix, groupCount } from './matrix.ts';

type RoundSource = Extract<GroupSource, { readonly format: 'round' }>;

/** A row of a matrix `cols` wide, in f32. */
export function readRow(stored: StoredFloats, row: number, cols: number): Float32Array {
  const [from, end] = [row * cols, (row + 1) * cols];
  return stored.dtype === 'f32'
    ? stored.values.subarray(from, end)
    : widenHalves(stored.bits.subarray(from, end), stored.dtype);
}

/** How much of a tensor its codes do not say: sum of (w - w')^2 over sum of w^2. */
const errors = new WeakMap<Checkpoint, Map<string, number>>();

/** Normalized mean squared error of every tensor of a checkpoint that was rounded so far, by name. */
export function roundingErrors(checkpoint: Checkpoint): ReadonlyMap<string, number> {
  return errors.get(checkpoint) ?? new Map();
}

/** Mean and worst of the errors; undefined where nothing was rounded. */
export function summarizeErrors(found: ReadonlyMap<string, number>): RoundingSummary | undefined {
  const [first, ...others] = found;
  if (first === undefined) return undefined;
  const [worstTensor, worst] = others.reduce((a, b) => (b[1] > a[1] ? b : a), first);
  const sum = [...found.values()].reduce((a, b) => a + b);
  return { tensors: found.size, mean: sum / found.size, worst, worstTensor };
}

/** Notes sum of (w - w')^2 and sum of w^2 of a tensor; throws `invalid` where they are not finite. */
export function noteError(
  checkpoint: Checkpoint,
  tensor: string,
  errorSquares: number,
  squares: number,
): void {
  if (!Number.isFinite(errorSquares)) {
    throw new LutraError(
      'invalid',
      `tensor ${tensor} has weights that are not finite, or too large for scales in f16`,
    );
  }
  const noted = errors.get(checkpoint) ?? new Map<string, number>();
  errors.set(checkpoint, noted.set(tensor, squares === 0 ? 0 : errorSquares / squares));
}

/** Lets long work on the rows of a matrix be ended. */
export async function pauseAt(row: number, checkpoint: Checkpoint): Promise<void> {
  if (row % 64 === 0) await pauseWork(checkpoint);
}

/** Rounds a stored matrix; throws `invalid` for weights that are not finite or too large for a scale in f16. */
export async function readRounded(source: RoundSource, checkpoint: Checkpoint): Promise<GroupMatrix> {
  const { tensor, bits, group, symmetric } = source;
  const [rows = 0, cols = 0] = checkpoint.tensors.get(tensor)?.shape ?? [];
  const stored = await readFloats(checkpoint, tensor, [[rows, cols]]);
  const groups = groupCount(cols, group);
  const codes = new Uint8Array(rows * cols);
  const scales = new Uint16Array(rows * groups);
  const zeros = symmetric ? undefined : new Uint8Array(rows * groups);
  const search = new GridSearch(bits, Math.min(group, cols), symmetric);
  const largest = 2 ** bits - 1;
  let [squares, errorSquares] = [0, 0];
  for (let row = 0; row < rows; row++) {
    await pauseAt(row, checkpoint);
    const values = readRow(stored, row, cols);
    for (let g = 0; g < groups; g++) {
      const end = Math.min(cols, (g + 1) * group);
      const { scale, zero } = search.find(values, g * group, end);
      const inverse = scale === 0 ? 0 : 1 / scale;
      for (let i = g * group; i < end; i++) {
        const value = values[i]!;
        const code = value * inverse + zero + ROUND - ROUND;
        const inRange = Math.min(largest, Math.max(0, code));
        codes[row * cols + i] = inRange;
        const error = value - scale * (inRange - zero);
        squares += value * value;
        errorSquares += error * error;
      }
      scales[row * groups + g] = f32ToF16(scale);
      if (zeros !== undefined) zeros[row * groups + g] = zero;
    }
  }
  noteError(checkpoint, tensor, errorSquares, squares);
  return {
    bits,
    rows,
    cols,
    group,
    codes,
    scales: { dtype: 'f16', bits: scales },
    ...(zeros === undefined ? {} : { zeros }),
  };
}
