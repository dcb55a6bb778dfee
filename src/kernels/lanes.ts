/** What float kernels share: rows of any width as groups of `LANES` elements. */
import type { FunctionBuilder } from '../loops/builder.ts';
import { add, concat, div, float, int, max, min, mul, repeat, select, sub, unary } from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { rowStride } from './kernel.ts';

/** Partial sums of every float reduction, on every machine: the order of additions is part of the meaning. */
export const LANES = 16;

/** Lane i holds i. */
export function laneIndices(lanes: number): Expr {
  return concat(Array.from({ length: lanes }, (_, i) => int(i)));
}

/** The first `count` lanes of an f32 vector, 0 in the others. */
export function keepFirst(value: Expr, count: number): Expr {
  const { lanes } = value.type;
  if (count >= lanes) return value;
  return select('lt', laneIndices(lanes), repeat(int(count), lanes), value, float(0, lanes));
}

/**
 * Calls `body` for elements 0 .. width in groups of `lanes`: the full ones in a loop, then one of `count`
 * elements if the width is not a multiple. Rows are padded, so that a full group may be loaded and stored.
 */
export function forGroups(
  b: FunctionBuilder,
  width: number,
  body: (at: Expr, count: number) => void,
  lanes = LANES,
): void {
  const full = width - (width % lanes);
  if (full > 0) b.for('i', 0, full, lanes, (i) => body(i, lanes));
  if (full < width) body(int(full), width - full);
}

/**
 * Calls `body` for elements 0 .. width in pieces of `most` lanes (a power of two), then of fewer: for rows
 * that are followed by something else.
 */
export function forPieces(
  b: FunctionBuilder,
  width: number,
  most: number,
  body: (at: Expr, lanes: number) => void,
): void {
  let done = width - (width % most);
  if (done > 0) b.for('i', 0, done, most, (i) => body(i, most));
  for (let lanes = most / 2; lanes >= 1; lanes /= 2) {
    if (width - done < lanes) continue;
    body(int(done), lanes);
    done += lanes;
  }
}

/** Columns that one iteration of an element-wise kernel's thread loop covers. */
const STRIP = 512;

/**
 * The thread loop of an element-wise kernel: `body` gets the row, the column and the element index of every
 * group of `LANES` elements of n rows. Groups reach into the padding of the row.
 */
export function forElements(
  b: FunctionBuilder,
  n: Expr,
  width: number,
  body: (row: Expr, column: Expr) => void,
): void {
  const strips = Math.ceil(width / STRIP);
  threadPairs(b, n, strips, (row, strip) => {
    const from = b.let('from', mul(strip, STRIP));
    const last = Math.ceil(width / LANES) * LANES;
    const to = width <= STRIP ? int(last) : b.let('to', min(add(from, STRIP), int(last)));
    b.for('column', from, to, LANES, (column) => body(row, column));
  });
}

/** A thread loop over n * inner iterations, taken apart. */
export function threadPairs(
  b: FunctionBuilder,
  n: Expr,
  inner: number,
  body: (outer: Expr, inner: Expr) => void,
): void {
  b.thread('job', mul(n, inner), (job) => {
    if (inner === 1) return body(job, int(0));
    const outer = b.let('outer', div(job, inner));
    body(outer, b.let('inner', sub(job, mul(outer, inner))));
  });
}

/** `LANES` integers within -limit .. limit, as floats: those nearest to x * factor. */
export function nearestTo(x: Expr, factor: Expr, limit: number): Expr {
  // The constant first: a cast of NaN would differ between targets.
  return min(max(float(-limit, LANES), unary('nearest', mul(x, factor))), float(limit, LANES));
}

/** Index of the first element of a row of `width` elements. */
export function rowStart(b: FunctionBuilder, row: Expr, width: number): Expr {
  return b.let('row', mul(row, rowStride(width)));
}
