import { LutraError } from '../../common/errors.ts';
import { quote } from '../failure.ts';

/** `x-00002-of-00003.gguf` is the second of three files of x. */
const SHARD_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** Whether a path names a GGUF file, or one of its shards. */
export function isGguf(path: string): boolean {
  return path.endsWith('.gguf');
}

/** The paths of all files of a model, the first one first, given any of them. */
export function ggufShards(path: string): readonly string[] {
  const [, stem, , total] = SHARD_NAME.exec(path) ?? [];
  const count = Number(total ?? 0);
  if (stem === undefined || count === 0) return [path];
  return Array.from(
    { length: count },
    (_, i) => `${stem}-${String(i + 1).padStart(5, '0')}-of-${total}.gguf`,
  );
}

/**
 * The one GGUF model among these files, by the name of its first file; undefined when there is none.
 * @param where the folder or repository, for messages
 * @param naming how to name one of its files to lutra
 * @throws `usage`, listing the candidates, when there are several
 */
export function chooseGguf(
  names: readonly string[],
  where: string,
  naming: (name: string) => string,
): string | undefined {
  const models = new Set(names.filter(isGguf).map((name) => ggufShards(name)[0]!));
  if (models.size <= 1) return [...models][0];
  const candidates = [...models].sort().map((name) => quote(naming(name)).slice(1, -1));
  const shown =
    candidates.length > 20 ? [...candidates.slice(0, 20), `${candidates.length - 20} more`] : candidates;
  throw new LutraError('usage', `${where} has ${models.size} GGUF models`, {
    hint: `Choose one: ${shown.join(', ')}.`,
  });
}
