/** A chunk of positions: its scores, and its values weighted with what softmax makes of them. */
import { range } from '../../common/math.ts';
import {
  add,
  cast,
  compare,
  constant,
  div,
  float,
  int,
  min,
  mul,
  repeat,
  select,
  shift,
  sub,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { KEY_BLOCK, keyBlockStart, scaleStart, valueStart, valueStride } from '../cache.ts';
import { LANES, laneIndices } from '../lanes.ts';
import { forTiles } from '../tiles.ts';
import { type Attention, CHUNK, NOTHING, seenBy, type Visit } from './shape.ts';
import { type ChunkSums, writeSoftmax } from './softmax.ts';

/** Bytes that one prefetch brings near. */
const LINE = 64;

/** How far ahead keys are brought near, in bytes. */
const KEYS_AHEAD = 4096;

function forRows({ b, s, group, one }: Attention, visit: Visit, body: (row: Expr, count: number) => void) {
  if (!one) forTiles(b, visit.rows, s.rows, body);
  else if (s.rows === group) body(int(0), group);
  else b.for('row', 0, group, s.rows, (row) => body(row, s.rows));
}

/** Elements that one prefetch brings near. */
const lineElements = ({ arithmetic }: Attention) => LINE / arithmetic.bytes;

/** Products of 16 lanes that a line of keys or values takes: as many as an iteration has. */
function stepsOf({ arithmetic }: Attention): number {
  return Math.max(1, LINE / (LANES * arithmetic.step * arithmetic.bytes));
}

/** q k for `rows` rows and `count` blocks of 16 keys: lanes are positions. */
function writeScores(a: Attention, visit: Visit, row: Expr, rows: number, block: Expr, count: number): void {
  const { b, shape, arithmetic, scales, one } = a;
  const { headDim } = shape;
  const { step, zero } = arithmetic;
  const stride = valueStride(shape);
  const first = b.let('position', mul(block, KEY_BLOCK));
  const keys = b.let('keys', keyBlockStart(shape, visit.kvHead, add(shift('right', visit.chunk, 4), block)));
  const query = b.let('query', mul(row, stride));
  const dots = range(rows).map(() => range(count).map(() => b.var('dots', zero)));
  const addColumn = (d: Expr) => {
    const from = b.let('from', add(keys, mul(d, KEY_BLOCK)));
    const column = range(count).map((i) =>
      b.let('key', arithmetic.load(a.keys, add(from, i * headDim * KEY_BLOCK))),
    );
    const element = b.let('element', add(query, d));
    dots.forEach((dot, r) => {
      const q = b.let('q', repeat(b.load(a.query, add(element, r * stride), step), LANES));
      dot.forEach((sum, i) => {
        b.set(sum, arithmetic.addProduct(sum, q, column[i]!));
      });
    });
  };
  const steps = stepsOf(a);
  const full = headDim - (headDim % (steps * step));
  b.for('d', 0, full, steps * step, (d) => {
    if (one) {
      const ahead = b.let('ahead', add(add(keys, mul(d, KEY_BLOCK)), KEYS_AHEAD / arithmetic.bytes));
      for (const i of range(count)) {
        for (let line = 0; line < steps * step * KEY_BLOCK; line += lineElements(a)) {
          b.prefetch(a.keys, add(ahead, i * KEY_BLOCK * headDim + line));
        }
      }
    }
    for (const i of range(steps)) addColumn(b.let('d', add(d, i * step)));
  });
  for (let d = full; d < headDim; d += step) addColumn(int(d));
  const scores = b.let('scores', add(mul(row, CHUNK), first));
  const scale = b.let('scale', scaleStart(shape, visit.kvHead, add(visit.chunk, first)));
  const scoreOf = (sum: Expr, r: number, i: number) => {
    if (scales === undefined) return sum;
    const keyScales = b.load(scales.keys, add(scale, KEY_BLOCK * i), LANES);
    return mul(mul(cast(sum, 'f32'), keyScales), repeat(b.load(scales.query, add(row, r)), LANES));
  };
  dots.forEach((dot, r) => {
    const visible = b.let('visible', repeat(sub(seenBy(a, visit, add(row, r)), first), LANES));
    dot.forEach((sum, i) => {
      const lanes = add(laneIndices(LANES), constant(vector('i32', LANES), KEY_BLOCK * i));
      const seen = select('lt', lanes, visible, scoreOf(sum, r, i), float(NOTHING, LANES));
      const inWindow =
        shape.window === undefined
          ? seen
          : select('lt', lanes, sub(visible, repeat(int(shape.window), LANES)), float(NOTHING, LANES), seen);
      b.store(a.scores, add(scores, r * CHUNK + KEY_BLOCK * i), inWindow);
    });
  });
}

/** Adds `count` vectors of the values of positions first .. last, weighted, to the partial sums of `rows` rows. */
function writeWeighted(
  a: Attention,
  visit: Visit,
  [row, rows]: readonly [Expr, number],
  [element, count]: readonly [Expr, number],
  [first, last]: readonly [Expr, Expr],
): void {
  const { b, shape, s, partial, arithmetic, one } = a;
  const { step } = arithmetic;
  const stride = valueStride(shape);
  const to = b.let('to', add(mul(row, stride), element));
  const place = (r: number, i: number) => add(to, r * stride + LANES * i);
  const sums = range(rows).map((r) =>
    range(count).map((i) => b.var('sums', b.load(partial, place(r, i), LANES))),
  );
  const start = b.let('values', add(valueStart(shape, visit.kvHead, visit.chunk), mul(element, step)));
  const weights = b.let('weights', mul(row, CHUNK));
  const addPosition = (position: Expr) => {
    const from = b.let('from', add(start, mul(position, stride)));
    const values = range(count).map((i) =>
      b.let('value', arithmetic.load(a.values, add(from, LANES * step * i))),
    );
    const at = b.let('at', add(weights, position));
    sums.forEach((sum, r) => {
      const weight = b.let('weight', repeat(b.load(a.weights, add(at, r * CHUNK), step), LANES));
      sum.forEach((partialSum, i) => {
        b.set(partialSum, arithmetic.addProduct(partialSum, weight, values[i]!));
      });
    });
  };
  // Rows that see less than the last one have weights of 0 there.
  const end = b.let('end', min(last, seenBy(a, visit, add(row, rows - 1))));
  const steps = stepsOf(a) * step;
  // The values of the next positions, in the order in which they lie.
  const next = one
    ? b.let(
        'next',
        add(
          valueStart(shape, visit.kvHead, add(visit.chunk, add(first, s.positions))),
          mul(element, s.positions),
        ),
      )
    : undefined;
  const body = (position: Expr) => {
    if (next !== undefined) {
      const ahead = b.let('ahead', add(next, mul(sub(position, first), LANES * count)));
      for (let line = 0; line < steps * LANES * count; line += lineElements(a)) {
        b.prefetch(a.values, add(ahead, line));
      }
    }
    for (let i = 0; i < steps; i += step) addPosition(b.let('position', add(position, i)));
  };
  if (step > 1) {
    // Integers behind what is seen have weights of 0 up to the end of the block: whatever they are.
    b.for('position', first, end, steps, body);
  } else {
    const whole = b.let('whole', add(first, mul(div(sub(end, first), steps), steps)));
    b.for('position', first, whole, steps, body);
    if (steps > 1) b.for('position', whole, end, 1, addPosition);
  }
  sums.forEach((sum, r) => {
    sum.forEach((value, i) => {
      b.store(partial, place(r, i), value);
    });
  });
}

/**
 * The values of a chunk weighted by softmax, in `partial`; `onRow` is called for every row that sees something of
 * it, before that.
 */
export function writeChunk(a: Attention, visit: Visit, onRow: (row: Expr, sums: ChunkSums) => void): void {
  const { b, s, shape, partial, arithmetic } = a;
  const stride = valueStride(shape);
  const blocks = b.let('blocks', shift('right', add(visit.visible, KEY_BLOCK - 1), 4));
  forTiles(b, blocks, s.keyBlocks, (block, count) => {
    forRows(a, visit, (row, rows) => writeScores(a, visit, row, rows, block, count));
  });
  forSeeing(a, visit, (row) => onRow(row, writeSoftmax(a, visit, blocks, row)));
  b.for('i', 0, mul(visit.rows, stride), LANES, (i) => b.store(partial, i, arithmetic.zero));
  const tiles = stride / LANES;
  const full = tiles - (tiles % s.valueTiles);
  b.for('first', 0, visit.visible, s.positions, (first) => {
    const last = b.let('last', min(add(first, s.positions), visit.visible));
    const accumulate = (element: Expr, count: number) =>
      forRows(a, visit, (row, rows) => writeWeighted(a, visit, [row, rows], [element, count], [first, last]));
    b.for('element', 0, full * LANES, s.valueTiles * LANES, (element) => accumulate(element, s.valueTiles));
    if (full < tiles) accumulate(int(full * LANES), tiles - full);
  });
}

/** `body` for every row that sees something of the chunk; the others are left as they are. */
export function forSeeing(a: Attention, visit: Visit, body: (row: Expr) => void): void {
  const { b, one } = a;
  b.for('row', 0, visit.rows, 1, (row) => {
    if (one) body(row);
    else b.if(compare('lt', int(0), seenBy(a, visit, row)), () => body(row));
  });
}
