import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Interval, placeBuffers } from './layout.ts';

describe('placeBuffers', () => {
  it('reuses the memory of a buffer that is no longer needed', () => {
    const layout = placeBuffers([
      { name: 'a', bytes: 64, first: 0, last: 1 },
      { name: 'b', bytes: 60, first: 1, last: 2 },
      { name: 'c', bytes: 64, first: 2, last: 3 },
    ]);
    expect(layout.bytes).toBe(128);
    expect(layout.offsets.get('a')).toBe(layout.offsets.get('c'));
  });

  it('never overlaps two buffers alive at the same step, and aligns all to lines', () => {
    const interval = fc.record({
      bytes: fc.integer({ min: 1, max: 1000 }),
      first: fc.nat(20),
      length: fc.nat(6),
    });
    fc.assert(
      fc.property(fc.array(interval, { maxLength: 40 }), (raw) => {
        const intervals: Interval[] = raw.map((r, i) => ({
          name: `v${i}`,
          bytes: r.bytes,
          first: r.first,
          last: r.first + r.length,
        }));
        const { offsets, bytes } = placeBuffers(intervals);
        for (const a of intervals) {
          const from = offsets.get(a.name)!;
          expect(from % 64).toBe(0);
          expect(from + a.bytes).toBeLessThanOrEqual(bytes);
          for (const b of intervals) {
            if (a === b || a.last < b.first || b.last < a.first) continue;
            const other = offsets.get(b.name)!;
            expect(from + a.bytes <= other || other + b.bytes <= from).toBe(true);
          }
        }
      }),
    );
  });
});
