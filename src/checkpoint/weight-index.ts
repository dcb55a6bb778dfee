/** The index of a sharded checkpoint: which file has which tensor. */
import { LutraError } from '../common/errors.ts';
import { malformed, quote } from './failure.ts';
import { isObject, parseObjectStrictly } from './json.ts';

export const WEIGHTS = 'model.safetensors';
export const WEIGHTS_INDEX = 'model.safetensors.index.json';

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
 * Why a folder or repository cannot be opened, which has neither `model.safetensors` nor its index.
 * @param where the folder or repository, for messages
 * @param names the names of its files
 */
export function noWeights(where: string, names: readonly string[]): LutraError {
  const loose = names.filter((name) => name.endsWith('.safetensors'));
  if (loose.length > 0) {
    return new LutraError('not-found', `${where} has ${quote(loose[0]!)} but no ${WEIGHTS_INDEX}`, {
      hint: `Add ${WEIGHTS_INDEX}, or name a single weights file ${WEIGHTS}.`,
    });
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
