/** Opens models: config.json, tokenizer files and one or more safetensors files as on Hugging Face, or GGUF files. */
import { stat } from 'node:fs/promises';
import { dirname, extname, join } from 'node:path';
import { LutraError } from '../common/errors.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import { fileFailure, malformed, quote, systemCode } from './failure.ts';
import { chooseGguf, ggufShards, isGguf } from './gguf/choose.ts';
import { type GgufOptions, noI2s, openGguf } from './gguf/open.ts';
import { parseObject } from './json.ts';
import { type SafetensorsEntry, storedDType } from './safetensors.ts';
import { openShard, type Shard } from './shard.ts';
import { folderFiles, type ModelFiles, openFile } from './source.ts';
import { findWeights, noWeights, parseWeightIndex, type WeightFiles } from './weight-index.ts';

/** The files, besides weights, that a checkpoint folder may have. */
export const TEXT_FILES = [
  'config.json',
  'quantize_config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'chat_template.json',
] as const;

/** Where a tensor is. */
interface Place {
  readonly shard: Shard;
  readonly entry: SafetensorsEntry;
}

/**
 * Opens the checkpoint in `folder`, or a GGUF file. A folder has `config.json` and one safetensors file, or the shards
 * that its index lists; or one GGUF model. Only headers are read, and checked against the files' sizes.
 * @throws `not-found` for a missing folder, config.json, weights or shard; `invalid` for malformed files;
 *   `usage` for a path that is no folder; `unsupported` for weights in another format
 */
export async function openCheckpoint(folder: string, options: GgufOptions = {}): Promise<Checkpoint> {
  if (isGguf(folder)) return openGguf(folder, ggufShards(folder), openFile, options);
  await requireModelPath(folder);
  return openModelFiles(folderFiles(folder), options);
}

/** Opens the model that these files are: see `openCheckpoint`. */
export async function openModelFiles(files: ModelFiles, options: GgufOptions = {}): Promise<Checkpoint> {
  const names = await files.names();
  const found = names.includes('config.json') ? findWeights(names) : undefined;
  const gguf =
    found === undefined ? chooseGguf(names, files.path, (name) => join(files.path, name)) : undefined;
  if (gguf !== undefined) {
    return openGguf(join(files.path, gguf), ggufShards(gguf), (name) => files.open(name), options);
  }
  if (options.i2sOrder !== undefined) throw noI2s(files.path);
  const textFiles = await readTextFiles(files);
  const configText = textFiles.get('config.json');
  if (configText === undefined) throw noConfig(files.path);
  const config = parseObject(configText, join(files.path, 'config.json'));
  const generation = textFiles.get('generation_config.json');
  const generationConfig =
    generation === undefined ? {} : parseObject(generation, join(files.path, 'generation_config.json'));
  if (found === undefined) throw noWeights(files.path, names);

  const shards: Shard[] = [];
  const closeShards = async () => {
    await Promise.all(shards.map((shard) => shard.close()));
  };
  let places: ReadonlyMap<string, Place>;
  try {
    places = await openWeights(files, found, shards);
  } catch (error) {
    await closeShards();
    throw error;
  }
  let closed = false;
  return {
    path: files.path,
    config,
    generationConfig,
    textFiles,
    tensors: tensorInfos(places),
    async read(name) {
      if (closed) throw new LutraError('usage', `the checkpoint ${files.path} is closed`);
      const place = places.get(name);
      if (place === undefined) {
        throw new LutraError('not-found', `${files.path} has no tensor ${quote(name)}`, {
          hint: 'The checkpoint does not fit its config.json, or is of another architecture.',
        });
      }
      return place.shard.read(place.entry);
    },
    async close() {
      if (closed) return;
      closed = true;
      await closeShards();
    },
  };
}

/** Throws `not-found` or `usage` for a path that is neither a folder nor called a GGUF file. */
export async function requireModelPath(path: string): Promise<void> {
  if (isGguf(path)) return;
  let isFolder: boolean;
  try {
    isFolder = (await stat(path)).isDirectory();
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw fileFailure(error, 'opening', path);
    throw new LutraError('not-found', `there is no folder ${path}`, {
      hint: 'Give the folder of a checkpoint: the one that has config.json and model.safetensors.',
    });
  }
  if (isFolder) return;
  switch (extname(path)) {
    case '.safetensors':
      throw new LutraError('usage', `${path} is a single file; expected the folder of a checkpoint`, {
        hint: `Give its folder, which must have config.json and the tokenizer too: ${dirname(path)}`,
      });
    case '.bin':
    case '.pt':
    case '.pth':
      throw new LutraError('unsupported', `${path} is in a format that lutra does not read`, {
        hint: 'Give a folder with config.json and safetensors files.',
      });
    default:
      throw new LutraError('usage', `${path} is not a folder, and no GGUF file by its name`, {
        hint: 'Give the folder of a checkpoint, the one that has config.json and model.safetensors, or a file.gguf.',
      });
  }
}

function noConfig(folder: string): LutraError {
  return new LutraError('not-found', `${folder} has no config.json`, {
    hint: 'A checkpoint is a folder with config.json, tokenizer.json and safetensors files, or a GGUF file.',
  });
}

async function readTextFiles(files: ModelFiles): Promise<ReadonlyMap<string, string>> {
  const texts = new Map<string, string>();
  for (const name of TEXT_FILES) {
    const text = await files.text(name);
    if (text !== undefined) texts.set(name, text);
  }
  return texts;
}

/** Opens the weights, adding each file to `shards` as soon as it is open, so that the caller can close it. */
async function openWeights(
  files: ModelFiles,
  { kind, name }: WeightFiles,
  shards: Shard[],
): Promise<ReadonlyMap<string, Place>> {
  if (kind === 'single') {
    const shard = await openShard(await files.open(name));
    shards.push(shard);
    return new Map(Array.from(shard.entries, ([tensor, entry]) => [tensor, { shard, entry }]));
  }
  const indexPath = join(files.path, name);
  const shardOf = parseWeightIndex((await files.text(name)) ?? '', indexPath);
  const byFile = new Map<string, Shard>();
  const places = new Map<string, Place>();
  for (const [tensor, file] of shardOf) {
    let shard = byFile.get(file);
    if (shard === undefined) {
      shard = await openShard(await files.open(file));
      shards.push(shard);
      byFile.set(file, shard);
    }
    const entry = shard.entries.get(tensor);
    if (entry === undefined) {
      throw malformed(
        indexPath,
        `it places tensor ${quote(tensor)} in ${file}, which has no such tensor`,
        'an index that fits its shards',
      );
    }
    places.set(tensor, { shard, entry });
  }
  return places;
}

function tensorInfos(places: ReadonlyMap<string, Place>): ReadonlyMap<string, TensorInfo> {
  const infos = new Map<string, TensorInfo>();
  for (const [name, { entry }] of places) {
    const dtype = storedDType(entry.dtype);
    if (dtype === undefined) continue;
    infos.set(name, { name, dtype, shape: entry.shape, bytes: entry.end - entry.begin });
  }
  return infos;
}
