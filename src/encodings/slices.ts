/** Packing of large tables slice by slice, with a pause after each, so that it can be ended. */
import type { StoredFloats } from '../models/tensors.ts';
import { int8RowsBytes, packInt8Rows } from './dense.ts';
import { type GroupedFormat, groupedRowsBytes, packGroupedRows, type RowNorms } from './grouped-rows.ts';
import { rowsOf } from './stored-rows.ts';

/** A multiple of the rows that lie together in any layout. */
const SLICE = 1024;

export type Pause = () => Promise<void>;

async function forSlices(rows: number, pause: Pause, body: (from: number, count: number) => void) {
  for (let from = 0; from < rows; from += SLICE) {
    await pause();
    body(from, Math.min(SLICE, rows - from));
  }
}

/** What `packInt8Rows` gives. */
export async function packInt8Slices(
  stored: StoredFloats,
  rows: number,
  cols: number,
  pause: Pause,
): Promise<[Uint8Array, Uint8Array]> {
  const [elements, scales] = int8RowsBytes(rows, cols).map((bytes) => new Uint8Array(bytes)) as [
    Uint8Array,
    Uint8Array,
  ];
  await forSlices(rows, pause, (from, count) => {
    const [own, ownScales] = packInt8Rows(rowsOf(stored, from, count, cols), count, cols);
    elements.set(own, (own.length / count) * from);
    scales.set(ownScales.subarray(0, 4 * count), 4 * from);
  });
  return [elements, scales];
}

/** What `packGroupedRows` gives. */
export async function packGroupedSlices(
  stored: StoredFloats,
  rows: number,
  cols: number,
  format: GroupedFormat,
  pause: Pause,
): Promise<{ readonly table: Uint8Array; readonly norms: RowNorms }> {
  const table = new Uint8Array(groupedRowsBytes(format, rows, cols));
  const norms: RowNorms = {
    error: new Float64Array(rows),
    packed: new Float64Array(rows),
    stored: new Float64Array(rows),
  };
  let end = 0;
  await forSlices(rows, pause, (from, count) => {
    const own = packGroupedRows(rowsOf(stored, from, count, cols), count, cols, format);
    table.set(own.table, end);
    end += own.table.length;
    for (const key of ['error', 'packed', 'stored'] as const) norms[key].set(own.norms[key], from);
  });
  return { table, norms };
}
