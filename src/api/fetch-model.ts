import { isArtifact } from '../artifact/open.ts';
import { requireModelPath } from '../checkpoint/open.ts';
import { resolveModel } from '../checkpoint/resolve.ts';
import { LutraError } from '../common/errors.ts';
import type { LoadOptions } from '../runtime/types.ts';

/**
 * The path of a checkpoint: a folder or a GGUF file, downloaded if `source` is of the hub. Throws as `resolveModel`,
 * and `usage` for what is no checkpoint.
 */
export async function fetchModel(
  source: string,
  { signal, onProgress, onWarning }: Pick<LoadOptions, 'signal' | 'onProgress' | 'onWarning'>,
): Promise<string> {
  const path = await resolveModel(source, {
    ...(signal === undefined ? {} : { signal }),
    ...(onWarning === undefined ? {} : { onWarning }),
    onProgress: (done, total) => onProgress?.({ stage: 'download', done, total }),
  });
  await requireModelPath(path);
  if (!(await isArtifact(path))) return path;
  throw new LutraError('usage', `${path} is already compiled`, {
    hint: 'Give the checkpoint it was made from.',
  });
}
