import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { narrowFloats } from '../common/halves.ts';
import { randomUniform } from '../common/random.ts';
import { type StoredFloats, toF32 } from '../models/tensors.ts';
import { type GroupedFormat, groupedRowsBytes, packGroupedRows, unpackGroupedRows } from './grouped-rows.ts';
import { packScanNorms, scanNormsBytes } from './scan-norms.ts';

const FORMATS: readonly GroupedFormat[] = ([4, 6] as const).flatMap((bits) =>
  ([32, 64] as const).map((group) => ({ bits, group })),
);

function randomTable(rows: number, cols: number, dtype: StoredFloats['dtype'], seed: number): StoredFloats {
  const random = randomUniform(seed);
  // About normal, and of a different size in every row.
  const normal = () => random() + random() + random() + random() - 2;
  const values = Float32Array.from(
    { length: rows * cols },
    (_, i) => normal() * 2 ** (Math.floor(i / cols) % 9),
  );
  return dtype === 'f32' ? { dtype, values } : { dtype, bits: narrowFloats(values, dtype) };
}

const norm = (values: Iterable<number>) => Math.sqrt([...values].reduce((sum, v) => sum + v * v, 0));

describe.each(FORMATS)('$bits bits in groups of $group', (format) => {
  it("keeps every weight to within its group's step, and says how far rows are off", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 35 }),
        fc.integer({ min: 1, max: 140 }),
        fc.constantFrom('f32', 'f16', 'bf16'),
        fc.nat(),
        (rows, cols, dtype, seed) => {
          const stored = randomTable(rows, cols, dtype, seed);
          const values = toF32(stored);
          const { table, norms } = packGroupedRows(stored, rows, cols, format);
          expect(table.length).toBe(groupedRowsBytes(format, rows, cols));
          const unpacked = unpackGroupedRows(table, rows, cols, format);
          for (let r = 0; r < rows; r++) {
            const [row, packed] = [values, unpacked].map((v) => v.subarray(r * cols, (r + 1) * cols));
            for (let at = 0; at < cols; at += format.group) {
              const group = row!.subarray(at, at + format.group);
              const peak = Math.max(...group.map(Math.abs));
              // The widest scale that is tried has 7 (31.5) steps to the largest weight.
              const step = peak / (format.bits === 4 ? 7 : 31.5);
              // Weights that are cut off are off by more, up to two steps.
              for (const [i, v] of group.entries()) {
                expect(Math.abs(v - packed![at + i]!)).toBeLessThanOrEqual(2.6 * step);
              }
            }
            expect(norm(row!.map((v, i) => v - packed![i]!))).toBeCloseTo(norms.error[r]!, 3);
            expect(norm(packed!) / norms.packed[r]!).toBeCloseTo(1, 6);
            expect(norm(row!) / norms.stored[r]!).toBeCloseTo(1, 6);
          }
        },
      ),
      { seed: 3, numRuns: 25 },
    );
  });

  it('is better than the scale that just reaches the largest weight', () => {
    const [rows, cols] = [20, 256];
    const stored = randomTable(rows, cols, 'bf16', 9);
    const values = toF32(stored);
    const { norms } = packGroupedRows(stored, rows, cols, format);
    const zero = 2 ** (format.bits - 1);
    let naive = 0;
    for (let at = 0; at < values.length; at += format.group) {
      const group = values.subarray(at, at + format.group);
      const step = Math.max(...group.map(Math.abs)) / (zero - 1);
      for (const v of group)
        naive +=
          (v - Math.round(v / step) * step) ** 2 /
          norm(values.subarray(at - (at % cols), at - (at % cols) + cols)) ** 2;
    }
    const found = [...norms.error].reduce((sum, e, r) => sum + (e / norms.stored[r]!) ** 2, 0);
    expect(Math.sqrt(found)).toBeLessThan(0.97 * Math.sqrt(naive));
  });

  it('packs rows of zeros, tiny and huge weights', () => {
    const values = new Float32Array(4 * 64);
    values
      .fill(2 ** -130, 64, 128)
      .fill(-(2 ** 120), 128, 192)
      .fill(2 ** -100, 192);
    const { table } = packGroupedRows({ dtype: 'f32', values }, 4, 64, format);
    const expected = values.slice().fill(0, 0, 128);
    const off = unpackGroupedRows(table, 4, 64, format).map(
      (v, i) => (v - expected[i]!) / (expected[i] || 1),
    );
    expect(Math.max(...off.map(Math.abs))).toBeLessThan(2 ** -8);
  });
});

it('norms of a scan are above those they bound, and cover every row', () => {
  const stored = randomTable(70, 100, 'bf16', 4);
  const { norms } = packGroupedRows(stored, 70, 100, { bits: 6, group: 64 });
  const bytes = packScanNorms(norms, 100);
  expect(bytes.length).toBe(scanNormsBytes(70));
  const packed = new Float32Array(bytes.buffer);
  for (let r = 0; r < 70; r++) {
    expect(packed[r]! / norms.error[r]!).toBeGreaterThan(1.001);
    expect(packed[r]! / norms.error[r]!).toBeLessThan(1.01);
    expect(packed[128 + r]! / norms.packed[r]!).toBeGreaterThan(1.001);
  }
});
