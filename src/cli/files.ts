import { readFile } from 'node:fs/promises';
import { LutraError } from '../common/errors.ts';
import { decodeUtf8 } from './prompt.ts';

/** A text file the user named; throws `not-found`, or `invalid` when it is not UTF-8. */
export async function readTextFile(path: string): Promise<string> {
  const bytes = await readFile(path).catch((cause: NodeJS.ErrnoException) => {
    const reason = { ENOENT: 'there is no such file', EISDIR: 'it is a folder' }[cause.code ?? ''];
    throw new LutraError('not-found', `cannot read ${path}: ${reason ?? cause.message}`, { cause });
  });
  return decodeUtf8(bytes, path);
}
