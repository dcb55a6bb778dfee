import { describe, expect, it } from 'vitest';
import { randomUniform } from '../common/random.ts';
import type { StoredFloats } from '../models/tensors.ts';
import { packInt8Rows } from './dense.ts';
import { packGroupedRows } from './grouped-rows.ts';
import { packGroupedSlices, packInt8Slices } from './slices.ts';

const ROWS = 2055;
const COLS = 70;

describe('tables packed in slices', () => {
  const next = randomUniform(5);
  const values = Float32Array.from({ length: ROWS * COLS }, () => next() - 0.5);
  const bits = Uint16Array.from(values, (value) => (value < 0 ? 0xbf00 : 0x3f00) + Math.floor(next() * 128));
  const tables: readonly StoredFloats[] = [
    { dtype: 'f32', values },
    { dtype: 'bf16', bits },
  ];

  it.each(tables)('have the bytes of those packed at once, of $dtype', async (stored) => {
    let pauses = 0;
    const pause = async () => void pauses++;
    expect(await packInt8Slices(stored, ROWS, COLS, pause)).toEqual(packInt8Rows(stored, ROWS, COLS));
    for (const format of [
      { bits: 4, group: 64 },
      { bits: 6, group: 32 },
    ] as const) {
      const found = await packGroupedSlices(stored, ROWS, COLS, format, pause);
      expect(found).toEqual(packGroupedRows(stored, ROWS, COLS, format));
    }
    expect(pauses).toBe(9);
  });

  it('can be given up', async () => {
    const giveUp = () => Promise.reject(new Error('enough'));
    await expect(packInt8Slices(tables[0]!, ROWS, COLS, giveUp)).rejects.toThrow('enough');
  });
});
