import { LutraError } from './errors.ts';

/** The LutraError that `run` must throw; any other error is thrown on. */
export function thrown(run: () => unknown): LutraError {
  try {
    run();
  } catch (error) {
    if (error instanceof LutraError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

/** Its code and message, as one text. */
export function refusal(run: () => unknown): string {
  const { code, message } = thrown(run);
  return `${code}: ${message}`;
}
