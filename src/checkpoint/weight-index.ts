/** Which files of a folder have the weights, and the index that says which file has which tensor. */
import { LutraError } from '../common/errors.ts';
import { malformed, quote } from './failure.ts';
import { isObject, parseObjectStrictly } from './json.ts';

export const WEIGHTS = 'model.safetensors';
export const WEIGHTS_INDEX = 'model.safetensors.index.json';

/** Weights in one file, or the index of several. */
export interface WeightFiles {
  readonly kind: 'single' | 'index';
  readonly name: string;
}

/**
 * Finds the weights among the files of a folder: under the usual names, else the only index, else the only
 * safetensors file, as GPTQ's tools write it (`gptq_model-4bit-128g.safetensors`). One of several shards
 * without an index is none.
 */
export function findWeights(names: readonly string[]): WeightFiles | undefined {
  if (names.includes(WEIGHTS)) return { kind: 'single', name: WEIGHTS };
  if (names.includes(WEIGHTS_INDEX)) return { kind: 'index', name: WEIGHTS_INDEX };
  const indices = names.filter((name) => /^\w[\w.-]*\.safetensors\.index\.json$/.test(name));
  if (indices.length > 0) return indices.length === 1 ? { kind: 'index', name: indices[0]! } : undefined;
  const files = names.filter((name) => /^\w[\w.-]*\.safetensors$/.test(name));
  const [only] = files;
  if (only === undefined || files.length > 1) return undefined;
  if (/-of-0*\d+\.safetensors$/.test(only) && !/-of-0*1\.safetensors$/.test(only)) return undefined;
  return { kind: 'single', name: only };
}

/**
 * Reads `model.safetensors.index.json`.
 * @returns the file name of the shard of each tensor; never a name outside the folder
 * @throws `invalid` when it is malformed
 */
export function parseWeightIndex(text: string, path: string): ReadonlyMap<string, string> {
  const { weight_map: weightMap } = parseObjectStrictly(text, path);
  if (!isObject(weightMap)) {
    throw malformed(path, 'it has no "weight_map" object', '{"weight_map": {"tensor": "file", ...}}');
  }
  const shardOf = new Map<string, string>();
  for (const [tensor, file] of Object.entries(weightMap)) {
    // A plain name: no separators of any platform, no drive, nothing that leaves the folder.
    if (typeof file !== 'string' || !/^\w[\w.-]*\.safetensors$/.test(file)) {
      const what = `it places tensor ${quote(tensor)} in the file ${quote(String(file))}`;
      throw malformed(path, what, 'the plain name of a .safetensors file in the same folder');
    }
    shardOf.set(tensor, file);
  }
  return shardOf;
}

/**
 * Why a folder or repository cannot be opened, in which `findWeights` finds nothing.
 * @param where the folder or repository, for messages
 * @param names the names of its files
 */
export function noWeights(where: string, names: readonly string[]): LutraError {
  const loose = names.filter((name) => name.endsWith('.safetensors')).sort();
  if (loose.length > 0) {
    const which = loose.length === 1 ? 'one shard' : `${loose.length} safetensors files`;
    return new LutraError(
      'not-found',
      `${where} has ${which}, such as ${quote(loose[0]!)}, but no ${WEIGHTS_INDEX}`,
      {
        hint: `Add ${WEIGHTS_INDEX}, or leave only one safetensors file that has all weights.`,
      },
    );
  }
  const other = names.find((name) => /\.(bin|pt|pth)$/.test(name));
  if (other !== undefined) {
    return new LutraError(
      'unsupported',
      `${where} has weights only in a format that lutra does not read: ${quote(other)}`,
      {
        hint: 'Get the safetensors form of the model.',
      },
    );
  }
  return new LutraError('not-found', `${where} has no weights`, {
    hint: `Expected ${WEIGHTS}, or ${WEIGHTS_INDEX} with its shards.`,
  });
}
