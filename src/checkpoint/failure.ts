import { LutraError } from '../common/errors.ts';

const DAMAGED = 'The file is damaged or incomplete: download or export it again.';

/** Input that is malformed: `what` was wrong in `file`, where `expected` says what would have been right. */
export function malformed(file: string, what: string, expected: string, hint = DAMAGED): LutraError {
  return new LutraError('invalid', `${file}: ${what}; expected ${expected}`, { hint });
}

/** A name from a file or a server, made safe to print: quoted, control characters escaped, cut to 80 characters. */
export function quote(text: string): string {
  const shown = text.length > 80 ? `${text.slice(0, 79)}…` : text;
  return JSON.stringify(shown).replaceAll(
    /[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** The `code` of a Node system error (`ENOENT`, ...), or undefined for anything else. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/**
 * The LutraError for a failed file operation; LutraErrors pass unchanged.
 * @param doing what was being done, as in "reading" or "writing"
 * @param elsewhere how to choose another place
 */
export function fileFailure(
  error: unknown,
  doing: string,
  path: string,
  elsewhere = 'choose another place',
): LutraError {
  if (error instanceof LutraError) return error;
  const cause = { cause: error };
  switch (systemCode(error)) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new LutraError(
        'not-found',
        doing === 'writing'
          ? `${path} cannot be written: its folder does not exist`
          : `${path} does not exist (while ${doing} it)`,
        { ...cause, hint: 'Check the path.' },
      );
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new LutraError('environment', `no permission for ${doing} ${path}`, {
        ...cause,
        hint: `Change its permissions or ${elsewhere}.`,
      });
    case 'ENOSPC':
    case 'EDQUOT':
      return new LutraError('environment', `the disk is full: ${doing} ${path} failed`, {
        ...cause,
        hint: `Free some space or ${elsewhere}, then try again.`,
      });
    case 'EMFILE':
    case 'ENFILE':
      return new LutraError('environment', `too many open files: ${doing} ${path} failed`, {
        ...cause,
        hint: 'Raise the limit (ulimit -n) or close other programs.',
      });
    default: {
      const reason = error instanceof Error ? error.message : String(error);
      return new LutraError('environment', `${doing} ${path} failed: ${reason}`, cause);
    }
  }
}

/** Whether an error is the system's of a file or its place (`ENOSPC`, `EACCES`, ...), and no defect of the program. */
export function isSystemFailure(error: unknown): error is NodeJS.ErrnoException {
  return /^(ENOSPC|EDQUOT|EACCES|EPERM|EROFS|EMFILE|ENFILE|EIO)$/.test(systemCode(error) ?? '');
}
