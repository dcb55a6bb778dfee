import { expect, test } from 'vitest';
import { encodeGgufHeader } from './metadata.ts';

test('a header larger than the first buffer keeps every entry, wherever the buffer grows', () => {
  // Lengths from 0 to 69 let growth happen at any place within an entry.
  for (let length = 0; length < 70; length++) {
    const text = 'x'.repeat(length);
    const count = 2000;
    const bytes = encodeGgufHeader(
      Array.from({ length: count }, (_, i) => [`k${i}`, { type: 'string', value: text }] as const),
      [],
    );
    const found = new TextDecoder('latin1').decode(bytes);
    expect(found.match(/k\d+/g)).toHaveLength(count);
    expect(found.match(/x/g)?.length ?? 0).toBe(count * length);
  }
});
