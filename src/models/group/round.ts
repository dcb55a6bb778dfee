/** Rounding float weights to codes, group by group: what `--bits` does to a checkpoint of floats. */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { LutraError } from '../../common/errors.ts';
import { f16ToF32, f32ToF16, widenHalves } from '../../common/halves.ts';
import type { GroupSource } from '../../graph/ir.ts';
import type { RoundingSummary } from '../info.ts';
import { readFloats, type StoredFloats } from '../tensors.ts';
import { type GroupMatrix, groupCount } from './matrix.ts';

type RoundSource = Extract<GroupSource, { readonly format: 'round' }>;

/** A scale, an f16, and the code that stands for 0. */
interface Grid {
  readonly scale: number;
  readonly zero: number;
}

/** The nearest f16, as a number. */
const toF16 = (value: number) => f16ToF32(f32ToF16(value));

/**
 * Steps of the extreme value's size, in its direction, since there is a code more for one sign than for the
 * other. One bit has two values, and their mean magnitude is the best for both.
 */
function symmetricGrid(values: Float32Array, from: number, end: number, bits: number): Grid {
  let extreme = 0;
  let sum = 0;
  for (let i = from; i < end; i++) {
    const value = values[i]!;
    if (Math.abs(value) > Math.abs(extreme)) extreme = value;
    sum += Math.abs(value);
  }
  if (bits === 1) return { scale: toF16((2 * sum) / (end - from)), zero: 0.5 };
  return { scale: toF16(extreme / -(2 ** (bits - 1))), zero: 2 ** (bits - 1) };
}

/** From the smallest to the largest value, with 0 among the values that codes stand for. */
function asymmetricGrid(values: Float32Array, from: number, end: number, bits: number): Grid {
  let [low, high] = [0, 0];
  for (let i = from; i < end; i++) {
    const value = values[i]!;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const largest = 2 ** bits - 1;
  const scale = toF16((high - low) / largest);
  return { scale, zero: scale === 0 ? 0 : Math.min(largest, Math.round(-low / scale)) };
}

function readRow(stored: StoredFloats, row: number, cols: number): Float32Array {
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

function noteError(checkpoint: Checkpoint, tensor: string, error: number): void {
  const noted = errors.get(checkpoint) ?? new Map<string, number>();
  errors.set(checkpoint, noted.set(tensor, error));
}

/** Adding and subtracting it rounds a small float64 to an integer, ties to even. */
const ROUND = 1.5 * 2 ** 52;

/** Rounds a stored matrix; throws `invalid` for weights that are not finite or too large for a scale in f16. */
export async function readRounded(source: RoundSource, checkpoint: Checkpoint): Promise<GroupMatrix> {
  const { tensor, bits, group, symmetric } = source;
  const [rows = 0, cols = 0] = checkpoint.tensors.get(tensor)?.shape ?? [];
  const stored = await readFloats(checkpoint, tensor, [[rows, cols]]);
  const groups = groupCount(cols, group);
  const codes = new Uint8Array(rows * cols);
  const scales = new Uint16Array(rows * groups);
  const zeros = symmetric ? undefined : new Uint8Array(rows * groups);
  const gridOf = symmetric ? symmetricGrid : asymmetricGrid;
  const largest = 2 ** bits - 1;
  let [squares, errorSquares] = [0, 0];
  for (let row = 0; row < rows; row++) {
    const values = readRow(stored, row, cols);
    for (let g = 0; g < groups; g++) {
      const end = Math.min(cols, (g + 1) * group);
      const { scale, zero } = gridOf(values, g * group, end, bits);
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
  if (!Number.isFinite(errorSquares)) {
    throw new LutraError(
      'invalid',
      `tensor ${tensor} has weights that are not finite, or too large for scales in f16`,
    );
  }
  noteError(checkpoint, tensor, squares === 0 ? 0 : errorSquares / squares);
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
