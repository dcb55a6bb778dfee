/** The kinds of failure a caller can tell apart; the command line maps each to an exit code. */
export type ErrorCode =
  | 'usage' // the request itself makes no sense: an unknown option value, an empty prompt
  | 'not-found' // a file, model or key is missing
  | 'invalid' // input that is malformed, truncated or inconsistent
  | 'unsupported' // well-formed input that lutra cannot handle
  | 'environment' // the machine lacks something: a compiler, memory, disk, a CPU feature
  | 'network'
  | 'cancelled'
  | 'internal'; // a broken promise inside lutra: please report

export interface ErrorDetails {
  /** What to do about it, as one sentence. */
  readonly hint?: string;
  readonly cause?: unknown;
}

/** The one error class lutra throws on purpose: `message` says what was wrong and where, `hint` what to do. */
export class LutraError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'LutraError';
    this.code = code;
    this.hint = details.hint;
  }
}

/** For the default branch of an exhaustive switch. */
export function unreachable(value: never): never {
  throw new LutraError('internal', `unexpected value ${JSON.stringify(value)}`);
}
