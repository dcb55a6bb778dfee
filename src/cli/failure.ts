import { tmpdir } from 'node:os';
import { fileFailure, isSystemFailure } from '../checkpoint/failure.ts';
import { type ErrorCode, LutraError } from '../common/errors.ts';
import type { Io } from './io.ts';

/** Exit codes; docs/cli.md promises them. */
const EXIT_CODES: Readonly<Record<ErrorCode, number>> = {
  internal: 1,
  usage: 2,
  'not-found': 3,
  invalid: 4,
  unsupported: 5,
  environment: 6,
  network: 7,
  cancelled: 130,
};

/** Writes one clear line for an error, and one with what to do about it; returns the exit code. */
export function reportFailure(error: unknown, io: Io, verbose: boolean): number {
  const failure = asFailure(error);
  // Messages that quote others, such as a compiler, may be long: whole only when asked for.
  const line = verbose ? failure.message : (failure.message.split('\n')[0] ?? '');
  io.error(`lutra: ${line}\n`);
  if (failure.hint !== undefined) io.error(`  ${failure.hint}\n`);
  if (verbose) io.error(`${stackOf(failure)}\n`);
  return EXIT_CODES[failure.code];
}

/** Errors that are not lutra's own: cancellation by an AbortSignal, what the system says of files, or a defect. */
export function asFailure(error: unknown): LutraError {
  if (error instanceof LutraError) return error;
  if (error instanceof Error && error.name === 'AbortError') {
    return new LutraError('cancelled', 'cancelled', { cause: error });
  }
  if (isSystemFailure(error)) {
    // Where no path is named, a file that was open was written: those are in the temporary folder.
    return fileFailure(error, 'writing', error.path ?? tmpdir(), 'set TMPDIR to a folder elsewhere');
  }
  const message = error instanceof Error ? error.message : String(error);
  return new LutraError('internal', `internal error: ${message}`, {
    hint: 'This is a defect of lutra: please report it with the output of --verbose.',
    cause: error,
  });
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by: ${stackOf(error.cause)}` : '';
  return `${error.stack ?? error.message}${cause}`;
}
