/** Quantization of activations in groups of columns: `quantize.group`. */
import { f16ToF32, f32ToF16 } from '../../common/halves.ts';
import { roundHalfEven } from '../../common/math.ts';
import type { Dim, TensorType } from '../ir.ts';
import { defineOperator } from '../registry.ts';
import { choiceAttr, defaultAttr, input, integerAttr, optional } from '../schema.ts';
import type { Numbers } from '../step.ts';
import { tensor } from '../types.ts';

/** The largest magnitudes; of `int16` 127 * 128, so that two i8 planes can hold it. */
const LARGEST = { int8: 127, int16: 16256, sums: 127 };

/**
 * `sums`: of 4 adjacent columns, magnitudes add up to at most 255, so that the sums of any of them, less those of others,
 * fit bytes. They are scaled to 253, since rounding adds at most a half to each.
 */
const SUMMED = 4;
const SUM_MAX = 255;
const SUM_SCALED = 253;

/** The largest finite f16. */
const F16_MAX = 65504;

type GroupForm = {
  readonly group: number;
  readonly to: 'int8' | 'int16' | 'sums';
  readonly from: 'f32' | 'f16' | 'int8';
};

/** What operators that quantize in groups of columns have in common. */
export const groupAttrs = {
  group: integerAttr(1),
  to: choiceAttr('int8', 'int16', 'sums'),
  from: defaultAttr(choiceAttr('f32', 'f16', 'int8'), 'f32'),
};
export const orderInput = optional(input('order', 'i32', 'k'));

/** Throws what `reject` throws for attributes that do not go together. */
export function groupTypes(
  rows: Dim,
  k: number,
  { group, to, from }: GroupForm,
  reject: (what: string) => never,
): readonly TensorType[] {
  if (from !== 'f32' && to !== 'sums') reject(`from ${from} is for 'sums', not for ${to}`);
  if (to === 'sums' && group % SUMMED !== 0)
    reject(`group ${group} is no multiple of ${SUMMED}, as sums need`);
  const groups = Math.ceil(k / group);
  const q = tensor(to === 'int16' ? 'i16' : 'i8', rows, k);
  return [q, tensor('f32', rows, groups), tensor('i32', rows, groups)];
}

/** The columns of x [rows, k] in the given order. */
function reorder(x: Numbers, k: number, order: Numbers): Float64Array {
  return Float64Array.from({ length: x.length }, (_, i) => x[i - (i % k) + order[i % k]!]!);
}

interface Rounded {
  readonly q: readonly number[];
  readonly scale: number;
}

const largestOf = (values: readonly number[]) => values.reduce((peak, x) => Math.max(peak, Math.abs(x)), 0);

function largestSum(values: readonly number[]): number {
  let largest = 0;
  for (let i = 0; i < values.length; i += SUMMED) {
    const four = values.slice(i, i + SUMMED);
    largest = Math.max(
      largest,
      four.reduce((sum, x) => sum + Math.abs(x), 0),
    );
  }
  return largest;
}

/** Integers up to `largest` in steps of amax / largest. */
function roundTo(
  largest: number,
  values: readonly number[],
  amax = Math.max(1e-30, largestOf(values)),
): Rounded {
  const clamp = (x: number) => Math.min(largest, Math.max(-largest, x));
  return { q: values.map((x) => clamp(roundHalfEven(x * (largest / amax)))), scale: amax / largest };
}

function roundGroup(values: readonly number[], { to, from }: GroupForm): Rounded {
  const largest = LARGEST[to];
  if (to !== 'sums') return roundTo(largest, values);
  if (from === 'int8') {
    const first = roundTo(largest, values);
    const sum = largestSum(first.q);
    if (sum <= SUM_MAX) return first;
    const { q, scale } = roundTo(largest, first.q, (sum / SUM_SCALED) * largest);
    return { q, scale: scale * first.scale };
  }
  const half = (x: number) => f16ToF32(f32ToF16(Math.min(F16_MAX, Math.max(-F16_MAX, x))));
  const exact = from === 'f16' ? values.map(half) : values;
  const step = Math.max(Math.max(1e-30, largestOf(exact)) / largest, largestSum(exact) / SUM_SCALED);
  return roundTo(largest, exact, step * largest);
}

/** Absmax quantization of every group of columns of x [rows, k], the last of which may be narrower. */
export function quantizeGroups(x: Numbers, k: number, form: GroupForm, order?: Numbers): readonly Numbers[] {
  const values = order === undefined ? x : reorder(x, k, order);
  const rows = x.length / k;
  const groups = Math.ceil(k / form.group);
  const q = form.to === 'int16' ? new Int16Array(x.length) : new Int8Array(x.length);
  const scale = new Float64Array(rows * groups);
  const sum = new Int32Array(rows * groups);
  for (let row = 0; row < rows; row++) {
    for (let g = 0; g < groups; g++) {
      const [from, end] = [row * k + g * form.group, row * k + Math.min(k, (g + 1) * form.group)];
      const rounded = roundGroup(Array.from(values.subarray(from, end)), form);
      q.set(rounded.q, from);
      scale[row * groups + g] = rounded.scale;
      sum[row * groups + g] = rounded.q.reduce((total, value) => total + value, 0);
    }
  }
  return [q, scale, sum];
}

export const quantizeGroup = defineOperator({
  name: 'quantize.group',
  doc: 'quantize, for every group of columns by itself, of the columns in the given order: amax = max(max|x|, 1e-30); q = round-half-even(x * (L / amax)) with L = 127 for int8 and 16256 for int16; scale = amax / L. For sums, with s the largest sum of |x| of 4 adjacent columns, scale = max(amax / 127, s / 253), so that such sums of q are at most 255; from f16, x is rounded to that before; from int8, it is quantized to int8 before, and that again only where a sum is above 255.',
  inputs: [input('x', 'f32', 't', 'k'), orderInput],
  attrs: groupAttrs,
  outputs: ['q', 'scale', 'sum'],
  infer: ({ rows, size, attrs, reject }) => groupTypes(rows, size('k'), attrs, reject),
  reference: ({ inputs: [x, order], attrs }) => quantizeGroups(x!.data, x!.shape[1]!, attrs, order?.data),
});
