import type { TernaryGgufType } from '../../checkpoint/gguf/encode.ts';
import type { GgufEntry } from '../../checkpoint/gguf/metadata.ts';
import type { ModelInfo } from '../../models/info.ts';

/**
 * Names of architectures in `general.architecture`: `bitnet` is 1bitLLM's in llama.cpp (and, with
 * `hidden_activation`, Microsoft's in newer ones), `bitnet-25` and `bitnet-b1.58` are Microsoft's in bitnet.cpp.
 */
export const GGUF_ARCHITECTURES = ['llama', 'bitnet', 'bitnet-25', 'bitnet-b1.58'] as const;
export type GgufArchitecture = (typeof GGUF_ARCHITECTURES)[number];

/** `general.file_type`: what most tensors are. */
const FILE_TYPES: Readonly<Record<TernaryGgufType, number>> = {
  Q4_0: 2,
  Q8_0: 7,
  TQ1_0: 36,
  TQ2_0: 37,
  I2_S: 40,
};

/** The metadata of the model itself: what llama.cpp calls hyperparameters, and how to sample. */
export function modelEntries(
  info: ModelInfo,
  architecture: GgufArchitecture,
  type: TernaryGgufType,
  generation: Readonly<Record<string, unknown>>,
): [string, GgufEntry][] {
  const u32 = (value: number): GgufEntry => ({ type: 'u32', value });
  const f32 = (value: number): GgufEntry => ({ type: 'f32', value });
  const text = (value: string): GgufEntry => ({ type: 'string', value });
  const own = (key: string, entry: GgufEntry): [string, GgufEntry] => [`${architecture}.${key}`, entry];
  return [
    ['general.architecture', text(architecture)],
    ['general.type', text('model')],
    ['general.name', text(info.name)],
    ['general.file_type', u32(FILE_TYPES[type])],
    ['general.quantization_version', u32(2)],
    ...sampling(generation),
    own('vocab_size', u32(info.vocab)),
    own('context_length', u32(info.maxContext)),
    own('embedding_length', u32(info.hidden)),
    own('block_count', u32(info.layers)),
    own('feed_forward_length', u32(info.intermediate)),
    own('attention.head_count', u32(info.heads)),
    own('attention.head_count_kv', u32(info.kvHeads)),
    own('attention.key_length', u32(info.headDim)),
    own('attention.value_length', u32(info.headDim)),
    own('attention.layer_norm_rms_epsilon', f32(info.normEps)),
    own('rope.dimension_count', u32(info.headDim)),
    own('rope.freq_base', f32(info.ropeTheta)),
    ...(architecture === 'llama' ? [] : [own('hidden_activation', text(info.activation))]),
  ];
}

/** The recommended way to draw tokens; absent where the model is greedy. */
function sampling(generation: Readonly<Record<string, unknown>>): [string, GgufEntry][] {
  if (generation.do_sample !== true) return [];
  const entries: [string, GgufEntry][] = [];
  const add = (key: string, name: string, type: 'f32' | 'i32') => {
    const value = generation[key];
    if (typeof value === 'number') entries.push([`general.sampling.${name}`, { type, value }]);
  };
  add('temperature', 'temp', 'f32');
  add('top_k', 'top_k', 'i32');
  add('top_p', 'top_p', 'f32');
  add('min_p', 'min_p', 'f32');
  add('repetition_penalty', 'penalty_repeat', 'f32');
  return entries;
}
