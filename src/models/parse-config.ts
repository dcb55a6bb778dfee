import type { z } from 'zod';
import { LutraError } from '../common/errors.ts';

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let value = root;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | null | undefined)?.[key];
  return value;
}

/** Parses `input` or throws `invalid` naming the key, what it is and what was expected. */
export function parseConfig<T>(schema: z.ZodType<T>, input: unknown, where: string): T {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const key = issue.path.join('.');
  const value = valueAt(input, issue.path);
  const found = value === undefined ? 'is missing' : `is ${JSON.stringify(value)}`;
  throw new LutraError('invalid', `${where}: ${key} ${found} (${issue.message})`, {
    hint: 'Take config.json as the model was published.',
  });
}

/** Throws `unsupported`: `where` has `what`, which lutra cannot handle, but can `instead`. */
export function refuse(where: string, what: string, instead: string): never {
  throw new LutraError('unsupported', `${where}: ${what} is not supported`, {
    hint: `Supported: ${instead}.`,
  });
}
