import { LutraError } from '../../common/errors.ts';

/** Fails a forward step for values that no type can exclude: a token or position out of range. */
export function rejectStep(op: string, what: string): never {
  throw new LutraError('usage', `${op}: ${what}`);
}
