import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { outside, rowLoader, type Stretch } from './lookups.ts';

describe('outside', () => {
  test('is what lies before, between and after tables, in order', () => {
    const tables = [
      { offset: 60, bytes: 20, rowBytes: 10 },
      { offset: 10, bytes: 20, rowBytes: 5 },
    ];
    expect(outside(tables, 100)).toEqual([
      { offset: 0, bytes: 10 },
      { offset: 30, bytes: 30 },
      { offset: 80, bytes: 20 },
    ]);
    expect(outside([], 100)).toEqual([{ offset: 0, bytes: 100 }]);
    expect(outside([{ offset: 0, bytes: 100, rowBytes: 10 }], 100)).toEqual([]);
  });

  test('covers every byte that is in no table, once', () => {
    const pieces = fc.array(fc.record({ bytes: fc.nat(9), table: fc.boolean() }), { maxLength: 9 });
    fc.assert(
      fc.property(pieces, (all) => {
        const covered: number[] = [];
        const tables = [];
        let at = 0;
        for (const { bytes, table } of all) {
          if (table) tables.push({ offset: at, bytes, rowBytes: 1 });
          else for (let i = 0; i < bytes; i++) covered.push(at + i);
          at += bytes;
        }
        const found = outside(tables, at).flatMap(({ offset, bytes }) =>
          Array.from({ length: bytes }, (_, i) => offset + i),
        );
        expect(found).toEqual(covered);
      }),
    );
  });
});

describe('rowLoader', () => {
  const tables = [
    { offset: 1000, bytes: 800, rowBytes: 8 },
    { offset: 4000, bytes: 1600, rowBytes: 16 },
  ];

  test('loads the row of each token from each table, once', async () => {
    const loaded: Stretch[] = [];
    const need = rowLoader(tables, async (row) => void loaded.push(row));
    await need([3, 7, 3]);
    await need(Int32Array.of(7, 0));
    const rows = [3, 7, 0].flatMap((token) => [
      { offset: 1000 + 8 * token, bytes: 8 },
      { offset: 4000 + 16 * token, bytes: 16 },
    ]);
    const order = (list: readonly Stretch[]) => [...list].sort((a, b) => a.offset - b.offset);
    expect(order(loaded)).toEqual(order(rows));
  });

  test('a row that could not be loaded is tried again', async () => {
    let broken = true;
    let loads = 0;
    const need = rowLoader(tables, async () => {
      loads++;
      if (broken) throw new Error('disk');
    });
    await expect(need([1])).rejects.toThrow('disk');
    broken = false;
    loads = 0;
    await need([1]);
    await need([1]);
    expect(loads).toBe(2);
  });
});
