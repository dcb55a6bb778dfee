/** Opens a Hugging Face style folder: config.json, tokenizer files, and one or more safetensors files. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { dirname, extname, join } from 'node:path';
import { LutraError } from '../common/errors.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import { fileFailure, malformed, quote, systemCode } from './failure.ts';
import { chooseGguf, isGguf } from './gguf/choose.ts';
import { type GgufOptions, openGguf } from './gguf/open.ts';
import { parseObject } from './json.ts';
import { type SafetensorsEntry, storedDType } from './safetensors.ts';
import { openShard, type Shard } from './shard.ts';
import { noWeights, parseWeightIndex, WEIGHTS, WEIGHTS_INDEX } from './weight-index.ts';

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

/** The largest tokenizers in use have about 35 MB. */
const MAX_TEXT_BYTES = 256 * 1024 * 1024;

/** Where a tensor is. */
interface Place {
  readonly shard: Shard;
  readonly entry: SafetensorsEntry;
}

/**
 * Opens the checkpoint in `folder`, or a GGUF file. A folder has `config.json` and `model.safetensors`, or the shards that
 * `model.safetensors.index.json` lists. Only headers are read, and checked against the files' sizes.
 * @throws `not-found` for a missing folder, config.json, weights or shard; `invalid` for malformed files;
 *   `usage` for a path that is no folder; `unsupported` for weights in another format
 */
export async function openCheckpoint(folder: string, options: GgufOptions = {}): Promise<Checkpoint> {
  if (isGguf(folder)) return openGguf(folder, options);
  await requireFolder(folder);
  const textFiles = await readTextFiles(folder);
  const configText = textFiles.get('config.json');
  if (configText === undefined) {
    const gguf = chooseGguf(await readdir(folder), folder, (name) => join(folder, name));
    if (gguf !== undefined) return openGguf(join(folder, gguf), options);
    throw noConfig(folder);
  }
  const config = parseObject(configText, join(folder, 'config.json'));
  const generation = textFiles.get('generation_config.json');
  const generationConfig =
    generation === undefined ? {} : parseObject(generation, join(folder, 'generation_config.json'));

  const shards: Shard[] = [];
  const closeShards = async () => {
    await Promise.all(shards.map((shard) => shard.close()));
  };
  let places: ReadonlyMap<string, Place>;
  try {
    places = await openWeights(folder, shards);
  } catch (error) {
    await closeShards();
    throw error;
  }
  let closed = false;
  return {
    path: folder,
    config,
    generationConfig,
    textFiles,
    tensors: tensorInfos(places),
    async read(name) {
      if (closed) throw new LutraError('usage', `the checkpoint ${folder} is closed`);
      const place = places.get(name);
      if (place === undefined) {
        throw new LutraError('not-found', `${folder} has no tensor ${quote(name)}`, {
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

async function requireFolder(path: string): Promise<void> {
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
      throw new LutraError('usage', `${path} is not a folder`, {
        hint: 'Give the folder of a checkpoint: the one that has config.json and model.safetensors.',
      });
  }
}

function noConfig(folder: string): LutraError {
  return new LutraError('not-found', `${folder} has no config.json`, {
    hint: 'A checkpoint is a folder with config.json, tokenizer.json and safetensors files, or a GGUF file.',
  });
}

async function readTextFiles(folder: string): Promise<ReadonlyMap<string, string>> {
  const texts = new Map<string, string>();
  for (const name of TEXT_FILES) {
    const text = await readText(join(folder, name));
    if (text !== undefined) texts.set(name, text);
  }
  return texts;
}

/** A text file's content, without a byte order mark; undefined when there is no such file. */
async function readText(path: string): Promise<string | undefined> {
  let bytes: Uint8Array;
  try {
    const info = await stat(path);
    if (!info.isFile()) throw malformed(path, 'it is not a regular file', 'a text file');
    if (info.size > MAX_TEXT_BYTES) {
      throw malformed(path, `it has ${info.size} bytes`, `at most ${MAX_TEXT_BYTES}`);
    }
    bytes = await readFile(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw fileFailure(error, 'reading', path);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw malformed(path, 'it is not valid UTF-8', 'text in UTF-8');
  }
}

/** Opens the weights, adding each file to `shards` as soon as it is open, so that the caller can close it. */
async function openWeights(folder: string, shards: Shard[]): Promise<ReadonlyMap<string, Place>> {
  const names = await readdir(folder).catch((error: unknown) => {
    throw fileFailure(error, 'reading', folder);
  });
  if (names.includes(WEIGHTS)) {
    const shard = await openShard(join(folder, WEIGHTS));
    shards.push(shard);
    return new Map(Array.from(shard.entries, ([name, entry]) => [name, { shard, entry }]));
  }
  if (names.includes(WEIGHTS_INDEX)) return openSharded(folder, shards);
  throw noWeights(folder, names);
}

async function openSharded(folder: string, shards: Shard[]): Promise<ReadonlyMap<string, Place>> {
  const indexPath = join(folder, WEIGHTS_INDEX);
  const text = (await readText(indexPath)) ?? '';
  const shardOf = parseWeightIndex(text, indexPath);
  const byFile = new Map<string, Shard>();
  const places = new Map<string, Place>();
  for (const [tensor, file] of shardOf) {
    let shard = byFile.get(file);
    if (shard === undefined) {
      shard = await openShard(join(folder, file));
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
