/**
 * Tables of floats, row-major.
 *
 * - `padded-rows`: each row padded with zeros to a multiple of 64 elements, as bf16, f16 or f32. A vector is
 *   a table of one row.
 * - `rows`: f32 without padding, for tables that are read a row at a time.
 * - `int8-rows`: q = round-half-even(w * (127 / max|w|)), scale = max|w| / 127 of the row: rows of i8 padded
 *   as above, and apart from them the scales, f32, their number padded likewise.
 */
import { alignUp } from '../common/math.ts';
import { type StoredFloats, toF32 } from '../models/tensors.ts';
import { ROUND, readRow } from './stored-rows.ts';

const PAD = 64;

type FloatDType = StoredFloats['dtype'];

const BYTES: Readonly<Record<FloatDType, number>> = { f32: 4, f16: 2, bf16: 2 };

export function paddedRowsBytes(rows: number, cols: number, dtype: FloatDType): number {
  return rows * alignUp(cols, PAD) * BYTES[dtype];
}

function storedBytes(stored: StoredFloats): Uint8Array {
  const { buffer, byteOffset, byteLength } = stored.dtype === 'f32' ? stored.values : stored.bits;
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** When there is nothing to pad, the result shares memory with `stored`. */
export function packPaddedRows(stored: StoredFloats, rows: number, cols: number): Uint8Array {
  const source = storedBytes(stored);
  const stride = alignUp(cols, PAD) * BYTES[stored.dtype];
  const rowBytes = cols * BYTES[stored.dtype];
  if (stride === rowBytes) return source;
  const out = new Uint8Array(rows * stride);
  for (let r = 0; r < rows; r++) out.set(source.subarray(r * rowBytes, (r + 1) * rowBytes), r * stride);
  return out;
}

/** The values of `padded-rows`, [rows, cols], for any alignment of `bytes`. */
export function unpackPaddedRows(
  bytes: Uint8Array,
  rows: number,
  cols: number,
  dtype: FloatDType,
): Float32Array {
  const { buffer } = bytes.slice();
  const all = toF32(
    dtype === 'f32' ? { dtype, values: new Float32Array(buffer) } : { dtype, bits: new Uint16Array(buffer) },
  );
  const stride = alignUp(cols, PAD);
  const values = new Float32Array(rows * cols);
  for (let r = 0; r < rows; r++) values.set(all.subarray(r * stride, r * stride + cols), r * cols);
  return values;
}

/** `rows`: the f32 values as they are. */
export function packRows(stored: StoredFloats): Uint8Array {
  return storedBytes({ dtype: 'f32', values: toF32(stored) });
}

/** Bytes of the two regions of `int8-rows`: elements, scales. */
export function int8RowsBytes(rows: number, cols: number): readonly [number, number] {
  return [rows * alignUp(cols, PAD), alignUp(rows, PAD) * 4];
}

export function packInt8Rows(stored: StoredFloats, rows: number, cols: number): [Uint8Array, Uint8Array] {
  const stride = alignUp(cols, PAD);
  const elements = new Int8Array(rows * stride);
  const scales = new Float32Array(alignUp(rows, PAD));
  for (let r = 0; r < rows; r++) {
    const values = readRow(stored, r, cols);
    let largest = 0;
    for (let c = 0; c < cols; c++) {
      const magnitude = Math.abs(values[c]!);
      if (magnitude > largest) largest = magnitude;
    }
    // Below that, the scale would be subnormal and inexact: the row is zero.
    if (largest < 2 ** -110) continue;
    scales[r] = largest / 127;
    const inverse = 127 / largest;
    const start = r * stride;
    for (let c = 0; c < cols; c++) elements[start + c] = values[c]! * inverse + ROUND - ROUND;
  }
  return [new Uint8Array(elements.buffer), new Uint8Array(scales.buffer)];
}

/** The values `int8-rows` stands for, [rows, cols]: q * scale. */
export function unpackInt8Rows(
  elements: Uint8Array,
  scales: Uint8Array,
  rows: number,
  cols: number,
): Float32Array {
  const stride = alignUp(cols, PAD);
  const q = new Int8Array(elements.slice().buffer);
  const scale = new Float32Array(scales.slice().buffer);
  return Float32Array.from({ length: rows * cols }, (_, i) => {
    const r = Math.floor(i / cols);
    return q[r * stride + (i % cols)]! * scale[r]!;
  });
}
