/** Checkpoints in memory, for tests. */
import type { Checkpoint, StoredDType, TensorInfo } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { narrowFloats } from '../common/halves.ts';
import { randomUniform } from '../common/random.ts';
import type { DecoderConfig } from './config.ts';

export interface MemoryTensor {
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export type MemoryTensors = Readonly<Record<string, MemoryTensor>>;

const bytesOf = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

export function f32Tensor(shape: readonly number[], values: ArrayLike<number>): MemoryTensor {
  return { dtype: 'f32', shape, bytes: bytesOf(Float32Array.from(values)) };
}

export function bf16Tensor(shape: readonly number[], values: ArrayLike<number>): MemoryTensor {
  return { dtype: 'bf16', shape, bytes: bytesOf(narrowFloats(Float32Array.from(values), 'bf16')) };
}

export function u8Tensor(shape: readonly number[], values: ArrayLike<number>): MemoryTensor {
  return { dtype: 'u8', shape, bytes: Uint8Array.from(values) };
}

export function memoryCheckpoint(
  tensors: MemoryTensors,
  config: Readonly<Record<string, unknown>> = {},
  generationConfig: Readonly<Record<string, unknown>> = {},
): Checkpoint {
  const infos = Object.entries(tensors).map(([name, { dtype, shape, bytes }]): [string, TensorInfo] => [
    name,
    { name, dtype, shape, bytes: bytes.length },
  ]);
  return {
    path: '/models/acme/test-model',
    config,
    generationConfig,
    textFiles: new Map(),
    tensors: new Map(infos),
    async read(name) {
      const tensor = tensors[name];
      if (tensor === undefined) throw new LutraError('not-found', `no tensor ${name}`);
      return tensor.bytes;
    },
    async close() {},
  };
}

/** Numbers uniform in [-range, range), the same for the same seed. */
export function randomValues(count: number, seed: number, range = 1): Float32Array {
  const random = randomUniform(seed);
  return Float32Array.from({ length: count }, () => (2 * random() - 1) * range);
}

/** Random weights in Hugging Face's packing, [rows/4, cols]: no field is 3. */
export function randomPacked(rows: number, cols: number, seed: number): MemoryTensor {
  const random = randomUniform(seed);
  const code = () => Math.floor(random() * 3);
  const bytes = Array.from(
    { length: (rows / 4) * cols },
    () => code() | (code() << 2) | (code() << 4) | (code() << 6),
  );
  return u8Tensor([rows / 4, cols], bytes);
}

export type DecoderShape = Pick<
  DecoderConfig,
  'hidden' | 'intermediate' | 'layers' | 'heads' | 'kvHeads' | 'headDim' | 'vocab'
>;

/** A decoder small enough to write out: two layers with grouped heads and odd widths. */
export const SMALL: DecoderShape = {
  hidden: 24,
  intermediate: 20,
  layers: 2,
  heads: 6,
  kvHeads: 2,
  headDim: 4,
  vocab: 18,
};

/** config.json of such a decoder, but for what makes it one architecture or another. */
export function smallConfig(shape: DecoderShape): Readonly<Record<string, unknown>> {
  return {
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    vocab_size: shape.vocab,
    max_position_embeddings: 32,
    rms_norm_eps: 1e-5,
    hidden_act: 'silu',
    rope_theta: 10000,
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 2,
  };
}

export interface SmallTensorsOptions {
  /** Master weights, or packed ones with this `weight_scale`. */
  readonly weights: 'masters' | { readonly packedScale: number };
  readonly subNorms?: { readonly attention: string; readonly feedForward: string };
  readonly tied?: boolean;
  /** Default: `SMALL`. */
  readonly shape?: DecoderShape;
}

/** Random tensors of a small decoder, the same for the same options. */
export function smallTensors(options: SmallTensorsOptions): MemoryTensors {
  const { weights, subNorms, tied = false, shape = SMALL } = options;
  const { hidden, intermediate, layers, heads, kvHeads, headDim, vocab } = shape;
  const tensors: Record<string, MemoryTensor> = {};
  let seed = 0;
  const table = (name: string) => {
    tensors[name] = bf16Tensor([vocab, hidden], randomValues(vocab * hidden, ++seed));
  };
  const norm = (name: string, width: number) => {
    const values = randomValues(width, ++seed, 0.5).map((v) => v + 1);
    tensors[`${name}.weight`] = bf16Tensor([width], values);
  };
  const linear = (name: string, rows: number, cols: number) => {
    seed++;
    if (weights === 'masters') {
      tensors[`${name}.weight`] = bf16Tensor([rows, cols], randomValues(rows * cols, seed, 0.3));
    } else {
      tensors[`${name}.weight`] = randomPacked(rows, cols, seed);
      tensors[`${name}.weight_scale`] = bf16Tensor([1], [weights.packedScale]);
    }
  };
  table('model.embed_tokens.weight');
  for (let i = 0; i < layers; i++) {
    const [layer, attention, mlp] = ['', '.self_attn', '.mlp'].map((part) => `model.layers.${i}${part}`);
    norm(`${layer}.input_layernorm`, hidden);
    norm(`${layer}.post_attention_layernorm`, hidden);
    linear(`${attention}.q_proj`, heads * headDim, hidden);
    linear(`${attention}.k_proj`, kvHeads * headDim, hidden);
    linear(`${attention}.v_proj`, kvHeads * headDim, hidden);
    linear(`${attention}.o_proj`, hidden, heads * headDim);
    linear(`${mlp}.gate_proj`, intermediate, hidden);
    linear(`${mlp}.up_proj`, intermediate, hidden);
    linear(`${mlp}.down_proj`, hidden, intermediate);
    if (subNorms !== undefined) {
      norm(`${attention}.${subNorms.attention}`, heads * headDim);
      norm(`${mlp}.${subNorms.feedForward}`, intermediate);
    }
  }
  norm('model.norm', hidden);
  if (!tied) table('lm_head.weight');
  return tensors;
}
