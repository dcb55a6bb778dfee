import type { Attrs, TensorType } from '../ir.ts';
import { defineOperator, type InferCall, type ReferenceCall } from '../registry.ts';
import { type AttrSchema, booleanAttr, defaultAttr, input, integerAttr, optional } from '../schema.ts';
import type { Tensor } from '../step.ts';
import { CODES, tensor } from '../types.ts';

const inputs = [
  input('q', ['i8', 'i16'], 't', 'k'),
  input('scale', 'f32', 't', 'a'),
  input('sum', 'i32', 't', 'a'),
  input('weight', CODES, 'm', 'k'),
  input('weightScale', ['f16', 'f32'], 'm', 'g'),
];

const zeros = optional(input('zeros', ['u8', 'f16', 'f32'], 'm', 'g'));

/** A code or the middle between two, as the symmetric levels +1 and -1 of one bit have it. */
const zeroAttr: AttrSchema<number> = {
  expected: 'a code that stands for 0, or half way between two: 0, 0.5, 1, ...',
  accepts: (value): value is number =>
    Number.isInteger(2 * (value as number)) && (value as number) >= 0 && (value as number) <= 256,
};

const attrs = {
  group: integerAttr(1),
  activationGroup: integerAttr(1),
  zero: zeroAttr,
  byteSums: defaultAttr(booleanAttr(), false),
};

type GroupAttrs = Attrs & {
  readonly group: number;
  readonly activationGroup: number;
  readonly zero: number;
  readonly byteSums: boolean;
};

function inferProduct(
  { inputs: types, rows, size, attrs: a, reject }: InferCall<GroupAttrs>,
  zerosAt: number,
) {
  const k = size('k');
  for (const [name, group, dim] of [
    ['group', a.group, 'g'],
    ['activationGroup', a.activationGroup, 'a'],
  ] as const) {
    const groups = Math.ceil(k / group);
    if (size(dim) !== groups)
      reject(`${name} ${group} makes ${groups} groups of ${k} columns, not ${size(dim)}`);
  }
  if (a.group < k && a.group % a.activationGroup !== 0) {
    reject(`group ${a.group} is no multiple of activationGroup ${a.activationGroup}`);
  }
  if (types[zerosAt] !== undefined && a.zero !== 0)
    reject(`has zeros, so that zero must be 0, not ${a.zero}`);
  if (a.byteSums && types[0]?.dtype !== 'i8') reject('has activations of 16 bits, whose sums fit no byte');
  return [tensor('f32', rows, size('m'))] satisfies TensorType[];
}

function product(
  { inputs: [q, scale, sum, weight, weightScale], attrs: a }: ReferenceCall<GroupAttrs>,
  z?: Tensor,
) {
  const [m = 0, k = 0] = weight!.shape;
  const groups = weightScale!.shape[1]!;
  const [rows = 0, parts = 0] = scale!.shape;
  const minima = z !== undefined && !(z.data instanceof Uint8Array);
  const out = new Float64Array(rows * m);
  for (let t = 0; t < rows; t++) {
    for (let row = 0; row < m; row++) {
      for (let part = 0; part < parts; part++) {
        const from = part * a.activationGroup;
        const end = Math.min(k, from + a.activationGroup);
        const at = row * groups + Math.floor(from / a.group);
        let dot = 0;
        for (let i = from; i < end; i++) dot += weight!.data[row * k + i]! * q!.data[t * k + i]!;
        const sumOfPart = sum!.data[t * parts + part]!;
        const zero = z === undefined ? a.zero : minima ? 0 : z.data[at]!;
        const weighted = weightScale!.data[at]! * (dot - zero * sumOfPart);
        const offset = minima ? z.data[at]! * sumOfPart : 0;
        out[t * m + row]! += (weighted - offset) * scale!.data[t * parts + part]!;
      }
    }
  }
  return out;
}

const doc =
  'y = sum over groups of weightScale * (sum over its activation groups of scale * (sum of code * q - zero * sum)); zero is that of `zeros` where they are integers, else the attribute; zeros of floats are subtracted from weightScale * code instead. `byteSums` says that q is quantized to sums (see quantize.group), for kernels that need it.';

export const lowbitMatmulGroup = defineOperator({
  name: 'lowbit.matmul.group',
  doc,
  inputs: [...inputs, zeros],
  attrs,
  outputs: ['out'],
  infer: (call) => inferProduct(call, 5),
  reference: (call) => [product(call, call.inputs[5])],
});

export const lowbitMatmulGroupAdd = defineOperator({
  name: 'lowbit.matmul.group.add',
  doc: 'lowbit.matmul.group, plus the residual.',
  inputs: [...inputs, input('residual', 'f32', 't', 'm'), zeros],
  attrs,
  outputs: ['out'],
  infer: (call) => inferProduct(call, 6),
  reference(call) {
    const out = product(call, call.inputs[6]);
    const residual = call.inputs[5]!.data;
    for (let i = 0; i < out.length; i++) out[i]! += residual[i]!;
    return [out];
  },
});
