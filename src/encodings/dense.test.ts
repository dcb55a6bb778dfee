import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { narrowFloats } from '../common/halves.ts';
import { randomUniform } from '../common/random.ts';
import { type StoredFloats, toF32 } from '../models/tensors.ts';
import {
  int8RowsBytes,
  packInt8Rows,
  packPaddedRows,
  packRows,
  paddedRowsBytes,
  unpackInt8Rows,
  unpackPaddedRows,
} from './dense.ts';

const DTYPES = ['f32', 'f16', 'bf16'] as const;

function randomTable(rows: number, cols: number, dtype: StoredFloats['dtype'], seed: number): StoredFloats {
  const random = randomUniform(seed);
  const values = Float32Array.from({ length: rows * cols }, () => (random() - 0.5) * 4);
  return dtype === 'f32' ? { dtype, values } : { dtype, bits: narrowFloats(values, dtype) };
}

const shape = {
  rows: fc.integer({ min: 1, max: 20 }),
  cols: fc.integer({ min: 1, max: 140 }),
  dtype: fc.constantFrom(...DTYPES),
};

describe('padded-rows', () => {
  it('keeps every value and pads with zeros', () => {
    fc.assert(
      fc.property(shape.rows, shape.cols, shape.dtype, fc.nat(), (rows, cols, dtype, seed) => {
        const table = randomTable(rows, cols, dtype, seed);
        const bytes = packPaddedRows(table, rows, cols);
        expect(bytes.length).toBe(paddedRowsBytes(rows, cols, dtype));
        expect(unpackPaddedRows(bytes, rows, cols, dtype)).toEqual(toF32(table));
        const elementBytes = dtype === 'f32' ? 4 : 2;
        const rowBytes = bytes.length / rows;
        for (let r = 0; r < rows; r++) {
          expect(
            bytes.subarray(r * rowBytes + cols * elementBytes, (r + 1) * rowBytes).every((b) => b === 0),
          ).toBe(true);
        }
      }),
      { seed: 1, numRuns: 60 },
    );
  });

  it('copies nothing when there is nothing to pad', () => {
    const table = randomTable(3, 128, 'bf16', 1);
    expect(packPaddedRows(table, 3, 128).buffer).toBe(table.dtype === 'bf16' && table.bits.buffer);
  });
});

describe('rows', () => {
  it('is the f32 values as they are', () => {
    const table = randomTable(3, 50, 'f32', 7);
    expect(new Float32Array(packRows(table).slice().buffer)).toEqual(toF32(table));
  });
});

describe('int8-rows', () => {
  it('is within half a step of every value, and uses the whole range', () => {
    fc.assert(
      fc.property(shape.rows, shape.cols, shape.dtype, fc.nat(), (rows, cols, dtype, seed) => {
        const table = randomTable(rows, cols, dtype, seed);
        const values = toF32(table);
        const regions = packInt8Rows(table, rows, cols);
        expect(regions.map((region) => region.length)).toEqual(int8RowsBytes(rows, cols));
        const [elements, scales] = regions;
        const unpacked = unpackInt8Rows(elements, scales, rows, cols);
        const scale = new Float32Array(scales.buffer);
        const q = new Int8Array(elements.buffer);
        const stride = q.length / rows;
        for (let r = 0; r < rows; r++) {
          let largest = 0;
          for (let c = 0; c < stride; c++) largest = Math.max(largest, Math.abs(q[r * stride + c]!));
          expect(largest).toBe(127);
          for (let c = 0; c < cols; c++) {
            const error = Math.abs(unpacked[r * cols + c]! - values[r * cols + c]!);
            expect(error).toBeLessThanOrEqual(scale[r]! * 0.5 * (1 + 1e-4));
          }
          expect(q.subarray(r * stride + cols, (r + 1) * stride).every((b) => b === 0)).toBe(true);
        }
        expect(scale.subarray(rows).every((s) => s === 0)).toBe(true);
      }),
      { seed: 2, numRuns: 60 },
    );
  });

  it('rounds ties to even', () => {
    const values = Float32Array.of(127, 0.5, 1.5, 2.5, -0.5, -1.5);
    const [elements] = packInt8Rows({ dtype: 'f32', values }, 1, 6);
    expect([...new Int8Array(elements.buffer, 0, 6)]).toEqual([127, 0, 2, 2, 0, -2]);
  });

  it('has zeros for a row of zeros, and for one too small to scale', () => {
    const values = Float32Array.of(0, 0, 1e-44, -3e-44, 1, 0);
    const [elements, scales] = packInt8Rows({ dtype: 'f32', values }, 3, 2);
    expect([...unpackInt8Rows(elements, scales, 3, 2)]).toEqual([0, 0, 0, 0, 1, 0].map(Math.fround));
  });
});
