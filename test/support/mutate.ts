/** Seeded damage to inputs: bytes of any file, and values of JSON. */
import { randomUniform } from '../../src/common/random.ts';

/** A source of seeded choices. */
export interface Chance {
  /** An integer from 0 to `limit` - 1. */
  below(limit: number): number;
  pick<T>(items: readonly T[]): T;
}

export function chance(seed: number): Chance {
  const uniform = randomUniform(seed);
  const below = (limit: number) => Math.floor(uniform() * limit);
  return { below, pick: (items) => items[below(items.length)]! };
}

/** What lengths, counts, types and offsets go wrong at. */
const EXTREMES: readonly bigint[] = [
  0n,
  1n,
  2n,
  31n,
  255n,
  2n ** 16n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 46n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
];

/** A copy with up to four changes within the first `end` bytes; a quarter of the copies is cut short. */
export function mutateBytes(seed: Uint8Array, end: number, { below, pick }: Chance): Uint8Array {
  const bytes = seed.slice();
  const view = new DataView(bytes.buffer);
  for (let change = below(4); change >= 0; change--) {
    const at = below(Math.max(1, end - 8));
    const kind = below(4);
    if (kind < 2) bytes[at] = below(256);
    else if (kind === 2) view.setBigUint64(at, pick(EXTREMES), true);
    else view.setUint32(at, Number(pick(EXTREMES) & 0xffffffffn), true);
  }
  return below(4) === 0 ? bytes.subarray(0, below(bytes.length)) : bytes;
}

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

const VALUES: readonly Json[] = [
  null,
  true,
  false,
  0,
  1,
  -1,
  2,
  3,
  0.5,
  1e-320,
  64,
  1023,
  65536,
  2 ** 31,
  2 ** 40,
  2 ** 53,
  1e308,
  -1e308,
  '',
  '0',
  '__proto__',
  '../../x',
  'constructor',
  '\u0000',
  '\ud800',
  'x'.repeat(500),
  [],
  [[]],
  [0, 1],
  {},
  { a: { b: { c: [] } } },
];

/** A copy with one to three values replaced, removed or doubled. */
export function mutateJson(seed: unknown, { below, pick }: Chance): unknown {
  const copy = structuredClone(seed) as unknown;
  for (let change = below(3); change >= 0; change--) {
    // A walk to a random depth.
    let holder: unknown = copy;
    for (;;) {
      if (typeof holder !== 'object' || holder === null) break;
      const keys = Object.keys(holder);
      if (keys.length === 0) break;
      const key = pick(keys);
      const inside = (holder as Record<string, unknown>)[key];
      if (typeof inside === 'object' && inside !== null && below(4) > 0) {
        holder = inside;
        continue;
      }
      damage(holder as Record<string, unknown>, key, { below, pick });
      break;
    }
  }
  return copy;
}

function damage(holder: Record<string, unknown>, key: string, { below, pick }: Chance): void {
  const value = holder[key];
  switch (below(8)) {
    case 0:
      delete holder[key];
      break;
    case 1:
      if (typeof value === 'number') holder[key] = -value;
      else if (typeof value === 'string') holder[key] = value.slice(0, below(value.length + 1));
      else holder[key] = [value, value];
      break;
    case 2:
      holder[key] = typeof value === 'number' ? value * pick([2, 0.5, 3, 1000]) : structuredClone(holder);
      break;
    case 3:
      holder[key] = holder[pick(Object.keys(holder))];
      break;
    default:
      holder[key] = structuredClone(pick(VALUES));
  }
}

/** Damaged JSON as text, in a quarter of the cases as no JSON any more. */
export function mutateJsonText(seed: unknown, { below, pick }: Chance): string {
  const text = JSON.stringify(mutateJson(seed, { below, pick })) ?? '';
  if (below(4) > 0 || text === '') return text;
  const at = below(text.length);
  const put = pick(['', '"', '{', '[', '}', ',', ':', '\\', '\\u00', '1e999', '\u0000', text.slice(0, 40)]);
  return text.slice(0, at) + put + text.slice(at + below(3));
}
