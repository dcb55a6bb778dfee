import { roundHalfEven } from '../../common/math.ts';
import type { Attrs, TensorType } from '../ir.ts';
import { defineOperator, type InferCall, type ReferenceCall } from '../registry.ts';
import { choiceAttr, input, integerAttr, optional } from '../schema.ts';
import type { Tensor } from '../step.ts';
import { CODES, tensor } from '../types.ts';

/** The largest magnitude of an activation: that of i8, and 127 * 128, so that two i8 planes can hold it. */
const LARGEST = { int8: 127, int16: 16256 };

/** Blocks are whole, and so are groups in them. */
function checkBlocks(
  k: number,
  { group, block }: { readonly group: number; readonly block: number },
  reject: (what: string) => never,
): void {
  if (k % block !== 0) reject(`${k} columns are no whole blocks of ${block}`);
  if (block % group !== 0) reject(`a block of ${block} columns has no whole groups of ${group}`);
}

export const quantizeBlocks = defineOperator({
  name: 'quantize.blocks',
  doc: 'quantize.group, for every block of columns, but with sums of the narrower groups in it: amax = max(max|x|, 1e-30); q = round-half-even(x * (L / amax)) with L = 127 for int8 and 16256 for int16; scale = amax / L.',
  inputs: [input('x', 'f32', 't', 'k')],
  attrs: { group: integerAttr(1), block: integerAttr(1), to: choiceAttr('int8', 'int16') },
  outputs: ['q', 'scale', 'sum'],
  infer({ rows, size, attrs, reject }) {
    const k = size('k');
    const { group, block, to } = attrs;
    checkBlocks(k, attrs, reject);
    const q = tensor(to === 'int8' ? 'i8' : 'i16', rows, k);
    return [q, tensor('f32', rows, k / block), tensor('i32', rows, k / group)];
  },
  reference({ inputs: [x], attrs: { group, block, to } }) {
    const { data } = x!;
    const q = to === 'int8' ? new Int8Array(data.length) : new Int16Array(data.length);
    const scale = new Float64Array(data.length / block);
    const sum = new Int32Array(data.length / group);
    const largest = LARGEST[to];
    for (const index of scale.keys()) {
      let amax = 1e-30;
      for (let i = index * block; i < (index + 1) * block; i++) amax = Math.max(amax, Math.abs(data[i]!));
      scale[index] = amax / largest;
      for (let i = index * block; i < (index + 1) * block; i++) {
        q[i] = Math.min(largest, Math.max(-largest, roundHalfEven(data[i]! * (largest / amax))));
        sum[Math.floor(i / group)]! += q[i]!;
      }
    }
    return [q, scale, sum];
  },
});

const before = [
  input('q', ['i8', 'i16'], 't', 'k'),
  input('scale', 'f32', 't', 'b'),
  input('sum', 'i32', 't', 'g'),
  input('weight', CODES, 'm', 'k'),
  input('weightScale', 'f16', 'm', 'b'),
];

const after = [
  input('scaleCodes', ['u4', 'u8', 'i8'], 'm', 'g'),
  optional(input('zeros', 'f16', 'm', 'b')),
  optional(input('zeroCodes', ['u4', 'u8'], 'm', 'g')),
];

const attrs = { group: integerAttr(1), block: integerAttr(1), zero: integerAttr(0) };

type BlockAttrs = Attrs & { readonly group: number; readonly block: number; readonly zero: number };

function inferProduct(
  { inputs, rows, size, attrs: a, reject }: InferCall<BlockAttrs>,
  zerosAt: number,
): TensorType[] {
  const k = size('k');
  checkBlocks(k, a, reject);
  if (size('b') !== k / a.block || size('g') !== k / a.group) {
    reject(
      `${k} columns are ${k / a.block} blocks and ${k / a.group} groups, not ${size('b')} and ${size('g')}`,
    );
  }
  const [zeros, zeroCodes] = [inputs[zerosAt], inputs[zerosAt + 1]];
  if ((zeros === undefined) !== (zeroCodes === undefined)) reject('has one of zeros and zeroCodes, not both');
  if (zeros !== undefined && a.zero !== 0) reject(`has zeros, so that zero must be 0, not ${a.zero}`);
  return [tensor('f32', rows, size('m'))];
}

/** The matrix that the codes mean, [m, k]. */
function dequantize(
  [weight, weightScale, scaleCodes, zeros, zeroCodes]: readonly (Tensor | undefined)[],
  { group, block, zero }: BlockAttrs,
): Float64Array {
  const { data } = weight!;
  return Float64Array.from({ length: data.length }, (_, i) => {
    const [inBlock, inGroup] = [Math.floor(i / block), Math.floor(i / group)];
    const scale = weightScale!.data[inBlock]! * scaleCodes!.data[inGroup]!;
    const minimum = zeros === undefined ? 0 : zeros.data[inBlock]! * zeroCodes!.data[inGroup]!;
    return scale * (data[i]! - zero) - minimum;
  });
}

function product({ inputs, attrs: a }: ReferenceCall<BlockAttrs>, hasResidual: boolean): Float64Array {
  const [q, scale, , weight, weightScale, ...others] = inputs;
  const codes = hasResidual ? others.slice(1) : others;
  const [m = 0, k = 0] = weight!.shape;
  const weights = dequantize([weight, weightScale, ...codes], a);
  const rows = q!.data.length / k;
  const out = new Float64Array(rows * m);
  for (let t = 0; t < rows; t++) {
    for (let row = 0; row < m; row++) {
      let total = hasResidual ? others[0]!.data[t * m + row]! : 0;
      for (let i = 0; i < k; i++) {
        total +=
          weights[row * k + i]! * q!.data[t * k + i]! * scale!.data[Math.floor((t * k + i) / a.block)]!;
      }
      out[t * m + row] = total;
    }
  }
  return out;
}

const doc =
  'y = sum over k of scale of its block * q * w, where w = weightScale of its block * scaleCode of its group * (code - zero), less zeros of its block * zeroCode of its group where there are such; `sum` serves kernels.';

export const lowbitMatmulBlocks = defineOperator({
  name: 'lowbit.matmul.blocks',
  doc,
  inputs: [...before, ...after],
  attrs,
  outputs: ['out'],
  infer: (call) => inferProduct(call, 6),
  reference: (call) => [product(call, false)],
});

export const lowbitMatmulBlocksAdd = defineOperator({
  name: 'lowbit.matmul.blocks.add',
  doc: 'lowbit.matmul.blocks, plus the residual.',
  inputs: [...before, input('residual', 'f32', 't', 'm'), ...after],
  attrs,
  outputs: ['out'],
  infer: (call) => inferProduct(call, 7),
  reference: (call) => [product(call, true)],
});
