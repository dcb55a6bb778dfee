import { malformed, quote } from './failure.ts';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** Whether a parsed JSON value is an object: not null, not an array. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Parses text that must be a JSON object.
 * @param file where it is from, for messages
 * @throws `invalid` when it is not
 */
export function parseObject(text: string, file: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw malformed(file, `it is not valid JSON (${quote(reason)})`, 'a JSON object');
  }
  if (!isObject(value)) throw malformed(file, 'it is not a JSON object', '{"key": value, ...}');
  return value;
}

/**
 * Like parseObject, but a key that occurs twice is `invalid` too: JSON.parse silently keeps the last one, so
 * that two programs could read two different things out of one file.
 */
export function parseObjectStrictly(text: string, file: string): Record<string, unknown> {
  const value = parseObject(text, file);
  const twice = duplicateKey(text);
  if (twice !== undefined) throw malformed(file, `it has the key ${quote(twice)} twice`, 'each key once');
  return value;
}

/**
 * The first key that occurs twice in the same object, or undefined.
 * @param json text that JSON.parse accepts
 */
export function duplicateKey(json: string): string | undefined {
  // One entry per open bracket: the keys seen so far of an object, null for an array.
  const open: (Set<string> | null)[] = [];
  let keys: Set<string> | null = null;
  let keyNext = false;
  for (let i = 0; i < json.length; i++) {
    switch (json.charCodeAt(i)) {
      case 0x7b: // {
        keys = new Set();
        open.push(keys);
        keyNext = true;
        break;
      case 0x5b: // [
        keys = null;
        open.push(keys);
        keyNext = false;
        break;
      case 0x7d: // }
      case 0x5d: // ]
        open.pop();
        keys = open.at(-1) ?? null;
        keyNext = false;
        break;
      case 0x2c: // ,
        keyNext = keys !== null;
        break;
      case QUOTE: {
        const end = closingQuote(json, i);
        if (keyNext && keys !== null) {
          // Unescaped, because "a" and "\u0061" are the same key.
          const key: string = JSON.parse(json.slice(i, end + 1));
          if (keys.has(key)) return key;
          keys.add(key);
          keyNext = false;
        }
        i = end;
        break;
      }
    }
  }
  return undefined;
}

function closingQuote(json: string, start: number): number {
  let i = start + 1;
  while (json.charCodeAt(i) !== QUOTE) i += json.charCodeAt(i) === BACKSLASH ? 2 : 1;
  return i;
}
