import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import {
  encodeQ6Floats,
  encodeQ8Floats,
  encodeTrits,
  i2sTail,
  TERNARY_BLOCK,
  type TernaryGgufType,
} from '../../checkpoint/gguf/encode.ts';
import { type GgufType, ggufBytes } from '../../checkpoint/gguf/types.ts';
import type { GgufTensorSource } from '../../checkpoint/gguf/write.ts';
import { LutraError } from '../../common/errors.ts';
import { f16ToF32, f32ToF16, narrowFloats } from '../../common/halves.ts';
import type { Constant, Graph, RopeScaling } from '../../graph/ir.ts';
import type { ModelInfo } from '../../models/info.ts';
import { ropeFrequencies } from '../../models/rope.ts';
import { toF32 } from '../../models/tensors.ts';
import { tritsOf } from '../../models/ternary.ts';
import { materialize } from '../../models/weights.ts';
import type { GgufArchitecture } from './metadata.ts';

/** Types of the embedding and the head. */
export const HEAD_TYPES = ['f32', 'f16', 'bf16', 'q8_0', 'q6_k'] as const;
export type HeadType = (typeof HEAD_TYPES)[number];

export interface TensorOptions {
  readonly architecture: GgufArchitecture;
  readonly type: TernaryGgufType;
  readonly head: HeadType;
}

/** Names of a layer's values in lutra's graphs, and of its tensors in GGUF. */
const LAYER_NAMES: ReadonlyMap<string, string> = new Map([
  ['attnNorm', 'attn_norm'],
  ['q', 'attn_q'],
  ['k', 'attn_k'],
  ['v', 'attn_v'],
  ['attnSubNorm', 'attn_sub_norm'],
  ['o', 'attn_output'],
  ['ffnNorm', 'ffn_norm'],
  ['gate', 'ffn_gate'],
  ['up', 'ffn_up'],
  ['ffnSubNorm', 'ffn_sub_norm'],
  ['down', 'ffn_down'],
]);

const MODEL_NAMES: ReadonlyMap<string, string> = new Map([
  ['embed', 'token_embd'],
  ['norm.weight', 'output_norm'],
  ['head', 'output'],
]);

/** Weights converted at a time. */
const CHUNK = 1 << 20;

/**
 * The tensors of an imported graph, in its order. Only scales are read now; weights when they are written.
 * @returns the tensors, and what is not exact about them
 */
export async function ggufTensors(
  checkpoint: Checkpoint,
  graph: Graph,
  info: ModelInfo,
  options: TensorOptions,
): Promise<{ readonly tensors: readonly GgufTensorSource[]; readonly warnings: readonly string[] }> {
  const tensors: GgufTensorSource[] = [];
  const constants = new Map(graph.constants.map((constant) => [constant.name, constant]));
  let rounded = 0;
  let replaced = 0;
  for (const constant of graph.constants) {
    const { name, source } = constant;
    if (name.endsWith('.weightScale')) continue;
    if (source.kind === 'rope-table') {
      if (source.divisors !== undefined || source.magnitude !== undefined) {
        throw new LutraError(
          'unsupported',
          `${info.name}: its scaling of positions cannot be written as GGUF`,
        );
      }
      if (source.scaling !== undefined) tensors.push(ropeFactors(source.scaling, info, options));
      continue;
    }
    const stored = `${ggufName(name)}.weight`;
    if (constant.type.dtype !== 'ternary') {
      const table = MODEL_NAMES.has(name) && name !== 'norm.weight';
      tensors.push(floatTensor(checkpoint, constant, stored, table ? options.head : 'f32'));
      continue;
    }
    const scaleConstant = constants.get(`${name.slice(0, -'.weight'.length)}.weightScale`);
    const matrix = await matrixTensors(checkpoint, constant, scaleConstant, stored, info, options);
    rounded += matrix.rounded ? 1 : 0;
    replaced += matrix.replaced ? 1 : 0;
    tensors.push(...matrix.tensors);
  }
  const warnings: string[] = [];
  if (rounded > 0) warnings.push(`${rounded} scales were rounded to 16 bits; type i2_s has them exactly`);
  if (replaced > 0) {
    warnings.push(
      `${replaced} matrices are q4_0 instead (without loss): their rows are no multiple of ${TERNARY_BLOCK[options.type]}`,
    );
  }
  return { tensors, warnings };
}

function ggufName(name: string): string {
  const ofModel = MODEL_NAMES.get(name);
  if (ofModel !== undefined) return ofModel;
  const [, layer, part] = /^l(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
  const known = LAYER_NAMES.get(part ?? '');
  if (known === undefined) {
    throw new LutraError('unsupported', `GGUF has no name that lutra knows for the constant ${name}`);
  }
  return `blk.${layer}.${known}`;
}

function fixedShape({ name, type }: Constant): number[] {
  return type.shape.map((dim) => {
    if (typeof dim === 'number') return dim;
    throw new LutraError('internal', `constant ${name} has the symbolic size ${dim}`);
  });
}

const FLOAT_TYPES: Readonly<Record<HeadType, GgufType>> = {
  f32: 'F32',
  f16: 'F16',
  bf16: 'BF16',
  q8_0: 'Q8_0',
  q6_k: 'Q6_K',
};

const bytesOf = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

function encodeFloats(values: Float32Array, type: HeadType): Uint8Array {
  switch (type) {
    case 'f32':
      return bytesOf(values);
    case 'f16':
    case 'bf16':
      return bytesOf(narrowFloats(values, type));
    case 'q8_0':
      return encodeQ8Floats(values);
    case 'q6_k':
      return encodeQ6Floats(values);
  }
}

function floatTensor(
  checkpoint: Checkpoint,
  constant: Constant,
  name: string,
  head: HeadType,
): GgufTensorSource {
  const shape = fixedShape(constant);
  const count = shape.reduce((product, size) => product * size, 1);
  const type = FLOAT_TYPES[head];
  const block = head === 'q8_0' ? 32 : head === 'q6_k' ? 256 : 1;
  if (shape.at(-1)! % block !== 0) {
    throw new LutraError('unsupported', `${name} has rows of ${shape.at(-1)}, no multiple of ${block}`, {
      hint: 'Choose another --head.',
    });
  }
  return {
    name,
    type,
    shape,
    bytes: ggufBytes(type, shape),
    async *chunks() {
      const weight = await materialize(constant, checkpoint);
      if (weight.kind !== 'float') throw new LutraError('internal', `constant ${constant.name} is no float`);
      const { stored } = weight;
      for (let at = 0; at < count; at += CHUNK) {
        const part =
          stored.dtype === 'f32'
            ? { dtype: stored.dtype, values: stored.values.subarray(at, at + CHUNK) }
            : { dtype: stored.dtype, bits: stored.bits.subarray(at, at + CHUNK) };
        yield encodeFloats(toF32(part), head);
      }
    },
  };
}

interface Matrix {
  readonly tensors: readonly GgufTensorSource[];
  /** Whether the scale is not exactly that of the checkpoint. */
  readonly rounded: boolean;
  /** Whether the matrix does not fit the type asked for. */
  readonly replaced: boolean;
}

/**
 * A ternary matrix. Where its blocks have a 16-bit scale that is not exactly the matrix's, the architectures
 * `bitnet*` have a tensor `.scale` by which outputs are multiplied, and blocks have the scale 1.
 */
async function matrixTensors(
  checkpoint: Checkpoint,
  constant: Constant,
  scaleConstant: Constant | undefined,
  name: string,
  info: ModelInfo,
  { architecture, type: asked }: TensorOptions,
): Promise<Matrix> {
  const [rows, cols] = fixedShape(constant) as [number, number];
  const scale = await commonScale(checkpoint, scaleConstant, name);
  const replaced = asked !== 'I2_S' && cols % TERNARY_BLOCK[asked] !== 0;
  const type = replaced ? 'Q4_0' : asked;
  const exact = type === 'I2_S' || f16ToF32(f32ToF16(scale)) === scale;
  const apart = !exact && architecture !== 'llama';
  const bits = f32ToF16(apart ? 1 : scale);
  // llama.cpp rotates neighbors in this architecture, where Hugging Face rotates halves.
  const part = /^l\d+\.([qk])\.weight$/.exec(constant.name)?.[1];
  const heads = part === 'q' ? info.heads : info.kvHeads;
  const order = part !== undefined && architecture === 'llama' ? interleaved(heads, rows / heads) : undefined;
  const tensors: GgufTensorSource[] = [
    {
      name,
      type,
      shape: [rows, cols],
      bytes: ggufBytes(type, [rows, cols]),
      async *chunks() {
        const weight = await materialize(constant, checkpoint);
        if (weight.kind !== 'ternary') throw new LutraError('internal', `${constant.name} is not ternary`);
        // I2_S blocks may straddle rows, but a chunk of rows is whole blocks by the check of the caller.
        const step = Math.max(1, Math.floor(CHUNK / cols));
        const trits =
          weight.blocks.length === 1 ? tritsOf(weight.blocks[0]!) : joined(weight.blocks.map(tritsOf));
        for (let row = 0; row < rows; row += step) {
          const end = Math.min(rows, row + step);
          const slab =
            order === undefined
              ? trits.subarray(row * cols, end * cols)
              : gather(trits, cols, order.subarray(row, end));
          yield encodeTrits(type, slab, bits);
        }
        if (type === 'I2_S') yield i2sTail(scale);
      },
    },
  ];
  if (apart) {
    const values = Float32Array.of(scale);
    tensors.push({
      name: name.replace(/\.weight$/, '.scale'),
      type: 'F32',
      shape: [1],
      bytes: 4,
      chunks: () => [bytesOf(values)],
    });
  }
  return { tensors, rounded: !exact && !apart, replaced };
}

function joined(parts: readonly Int8Array[]): Int8Array {
  const all = new Int8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function gather(trits: Int8Array, cols: number, rows: Int32Array): Int8Array {
  const out = new Int8Array(rows.length * cols);
  for (let i = 0; i < rows.length; i++)
    out.set(trits.subarray(rows[i]! * cols, (rows[i]! + 1) * cols), i * cols);
  return out;
}

/** For each row of GGUF the row of Hugging Face: in every head, the halves' rows in turns. */
function interleaved(heads: number, headDim: number): Int32Array {
  const half = headDim / 2;
  return Int32Array.from({ length: heads * headDim }, (_, row) => {
    const within = row % headDim;
    return row - within + (within & 1) * half + (within >> 1);
  });
}

/** The one scale of a matrix. */
async function commonScale(
  checkpoint: Checkpoint,
  constant: Constant | undefined,
  name: string,
): Promise<number> {
  const weight = constant === undefined ? undefined : await materialize(constant, checkpoint);
  if (weight?.kind !== 'float') throw new LutraError('internal', `${name} has no scale`);
  const values = toF32(weight.stored);
  const scale = values[0]!;
  if (values.some((value) => value !== scale)) {
    throw new LutraError(
      'unsupported',
      `${name} has a scale for every row, which no ternary type of GGUF has`,
    );
  }
  return scale;
}

/** Llama 3.1's scaling of the rotary frequencies, as what each is divided by. */
function ropeFactors(
  scaling: RopeScaling,
  info: ModelInfo,
  { architecture }: TensorOptions,
): GgufTensorSource {
  if (architecture !== 'llama') {
    throw new LutraError('unsupported', `${info.name}: the architecture ${architecture} has no rope scaling`);
  }
  const plain = ropeFrequencies(info.ropeTheta, info.headDim);
  const scaled = ropeFrequencies(info.ropeTheta, info.headDim, scaling);
  const factors = Float32Array.from(plain, (frequency, i) => frequency / scaled[i]!);
  return {
    name: 'rope_freqs.weight',
    type: 'F32',
    shape: [factors.length],
    bytes: factors.byteLength,
    chunks: () => [bytesOf(factors)],
  };
}
