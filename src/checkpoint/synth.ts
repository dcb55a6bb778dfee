/**
 * Checkpoints of the true shape of published models, with random weights: to measure speed and memory
 * without a download. What such a model says means nothing.
 */
import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LutraError } from '../common/errors.ts';
import { fileFailure, systemCode } from './failure.ts';
import { makeFolders, removeFolders } from './folders.ts';
import { isObject } from './json.ts';
import { SYNTH_PRESETS, type SynthPreset } from './synth/presets.ts';
import {
  LLAMA3_SPECIAL_COUNT,
  llama2Vocabulary,
  llama3Vocabulary,
  type SynthVocabulary,
  synthTokenizer,
  synthTokenizerConfig,
} from './synth/tokenizer.ts';
import { type SynthShape, synthTensors } from './synth/weights.ts';
import { writeSafetensors } from './write.ts';

export type { SynthPreset } from './synth/presets.ts';

export interface SynthOptions {
  /** The same seed gives the same bytes; default 0. */
  readonly seed?: number;
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
  readonly signal?: AbortSignal;
}

/** As transformers' `save_pretrained` does by default. */
const MAX_SHARD_BYTES = 5e9;

/**
 * Writes a checkpoint of a published model's shape into `folder`, which must be empty or not exist.
 * @throws `usage` for a folder that is not empty, `environment` when the disk is full, `cancelled`
 */
export async function synthesize(
  preset: SynthPreset,
  folder: string,
  options: SynthOptions = {},
): Promise<void> {
  await synthesizeConfig(SYNTH_PRESETS[preset], folder, options);
}

/**
 * Writes a checkpoint for a config.json of the BitNet, 1bitLLM or Llama (in floats, or `quant_method` bitnet or
 * gptq) kind. Its sizes are free, but `vocab_size` must hold 256 bytes and the special tokens, and the rows of every matrix
 * must be divisible by 4.
 */
export async function synthesizeConfig(
  config: Readonly<Record<string, unknown>>,
  folder: string,
  options: SynthOptions = {},
): Promise<void> {
  const { seed = 0, onProgress, signal } = options;
  const texts = textFiles(config);
  const tensors = synthTensors(shapeOf(config), seed);
  const made = await freeFolder(folder);
  try {
    for (const [name, text] of texts) await writeFile(join(folder, name), text);
    await writeSafetensors(folder, tensors, {
      maxShardBytes: MAX_SHARD_BYTES,
      signal,
      ...(onProgress !== undefined && { onProgress }),
    });
  } catch (error) {
    await Promise.all([...texts.keys()].map((name) => rm(join(folder, name), { force: true })));
    await removeFolders(made);
    throw fileFailure(error, 'writing', folder);
  }
}

/** Makes the folder if it is not there; gives those that it made. Throws `usage` unless it is empty. */
async function freeFolder(folder: string): Promise<readonly string[]> {
  try {
    const made = await makeFolders(folder);
    if ((await readdir(folder)).length === 0) return made;
  } catch (error) {
    if (systemCode(error) !== 'ENOTDIR') throw fileFailure(error, 'writing', folder);
    throw new LutraError('usage', `no folder can be made at ${folder}: a file is in its place`, {
      hint: 'Choose another.',
    });
  }
  throw new LutraError('usage', `the folder ${folder} is not empty`, {
    hint: 'Choose another, or empty it.',
  });
}

function textFiles(config: Readonly<Record<string, unknown>>): ReadonlyMap<string, string> {
  const vocabulary = vocabularyOf(config);
  const maxLength = sizeOf(config, 'max_position_embeddings');
  const endOfTurn = [...vocabulary.specials].find(([, content]) => content === vocabulary.endOfTurn)![0];
  const generation = {
    bos_token_id: config.bos_token_id,
    eos_token_id: [...new Set([sizeOf(config, 'eos_token_id'), endOfTurn])],
    do_sample: true,
    temperature: 0.6,
    top_p: 0.9,
    max_length: maxLength,
  };
  const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
  return new Map([
    ['config.json', json(config)],
    ['generation_config.json', json(generation)],
    ['tokenizer.json', json(synthTokenizer(vocabulary))],
    ['tokenizer_config.json', json(synthTokenizerConfig(vocabulary, maxLength))],
  ]);
}

function vocabularyOf(config: Readonly<Record<string, unknown>>): SynthVocabulary {
  const size = sizeOf(config, 'vocab_size');
  const bos = sizeOf(config, 'bos_token_id');
  if (bos < 256) {
    const padding = config.pad_token_id;
    return llama2Vocabulary(size, typeof padding === 'number' ? padding : undefined);
  }
  if (size - bos < LLAMA3_SPECIAL_COUNT) {
    throw new LutraError('usage', `vocab_size is ${size}; expected at least ${bos + LLAMA3_SPECIAL_COUNT}`, {
      hint: `${LLAMA3_SPECIAL_COUNT} special tokens begin at bos_token_id, ${bos}.`,
    });
  }
  return llama3Vocabulary(size, bos);
}

function shapeOf(config: Readonly<Record<string, unknown>>): SynthShape {
  const hidden = sizeOf(config, 'hidden_size');
  const heads = sizeOf(config, 'num_attention_heads');
  const headSize = config.head_dim === undefined ? hidden / heads : sizeOf(config, 'head_dim');
  const intermediate = sizeOf(config, 'intermediate_size');
  const queryRows = heads * headSize;
  const keyRows = sizeOf(config, 'num_key_value_heads') * headSize;
  for (const rows of [hidden, intermediate, queryRows, keyRows]) {
    if (rows % 4 === 0) continue;
    throw new LutraError('usage', `a matrix of the configuration has ${rows} rows; expected a multiple of 4`);
  }
  return {
    hidden,
    intermediate,
    layers: sizeOf(config, 'num_hidden_layers'),
    queryRows,
    keyRows,
    vocab: sizeOf(config, 'vocab_size'),
    tied: config.tie_word_embeddings === true,
    subNorms: subNormsOf(config),
    linear: linearOf(config),
    float: config.torch_dtype === 'float16' ? 'f16' : 'bf16',
  };
}

function subNormsOf(config: Readonly<Record<string, unknown>>): SynthShape['subNorms'] {
  if (config.model_type === 'bitnet') return { attention: 'attn_sub_norm', mlp: 'ffn_sub_norm' };
  const { architectures } = config;
  const is1bitLLM = Array.isArray(architectures) && architectures.includes('BitnetForCausalLM');
  return is1bitLLM ? { attention: 'inner_attn_ln', mlp: 'ffn_layernorm' } : undefined;
}

/** `autobitlinear` multiplies its outputs by `weight_scale`, `bitlinear`, the default, divides them. */
function linearOf(config: Readonly<Record<string, unknown>>): SynthShape['linear'] {
  const quantization = config.quantization_config;
  if (!isObject(quantization) || quantization.quantization_mode === 'online') return 'master';
  if (quantization.quant_method === 'gptq') {
    const { bits, group_size: group } = quantization;
    if ((bits === 2 || bits === 4 || bits === 8) && typeof group === 'number') return { bits, group };
    throw new LutraError(
      'usage',
      'the configuration needs bits 2, 4 or 8 and a group_size for quant_method gptq',
    );
  }
  return quantization.linear_class === 'autobitlinear' ? 'multiply' : 'divide';
}

function sizeOf(config: Readonly<Record<string, unknown>>, key: string): number {
  const value = config[key];
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw new LutraError('usage', `the configuration has no ${key}; expected an integer`);
}
