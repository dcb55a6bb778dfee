/**
 * Tables of sums of activations, for every 4 adjacent columns the sums that 4 bits of weights can ask for: entry e has
 * column j where bit j of e is set. Two forms (`TableForm`):
 *
 * `exact`: sum + 512 = 32 high + low of int8 activations, both below 32: 16 bytes of low, 16 of high. 8 entries add up
 * in a byte. Activations of int16 are two planes of int8 with a table each.
 *
 * `int8`, `fast`: of activations quantized to `sums`, each sum less half of that of all 4 (rounded down), plus 127: from
 * 0 to 255, 16 bytes. Beside them, for each activation group, the sum of what entries of its tables have added.
 * `fast` differs in how they are added.
 */

import { LutraError } from '../../common/errors.ts';
import { range } from '../../common/math.ts';
import type { BufferRef } from '../../loops/builder.ts';
import { FunctionBuilder } from '../../loops/builder.ts';
import {
  add,
  and,
  bitcast,
  cast,
  compare,
  concat,
  constant,
  dot2,
  int,
  mul,
  repeat,
  shift,
  shuffle,
  slice,
  sub,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { type GroupShape, partStride, planesOf } from '../group/shape.ts';
import { type Kernel, rowStride } from '../kernel.ts';
import { threadPairs } from '../lanes.ts';
import { buildBits } from './bits.ts';

/** Forms of tables; `bits` are none, but what family `popcount` reads instead (`bits.ts`). */
export type TableForm = 'exact' | 'int8' | 'fast' | 'bits';

export type TablesShape = Pick<GroupShape, 'k' | 'activationGroup' | 'to'> & { readonly tables: TableForm };

export type TablesSchedule = {
  /** Whether the 16 entries are made at once, or one by one, as a plain program would. */
  readonly vector: boolean;
  /** Of tables of bytes, whether only 8 entries are computed: entry 15 - e is the sum of all 4 less entry e. */
  readonly mirror: boolean;
};

/** Columns of a table, and entries. */
export const QUAD = 4;
export const ENTRIES = 16;

/** What exact entries have added, so that they are not negative, and their base. */
export const EXACT_BIAS = 512;
export const BASE_BITS = 5;

/** What entries of the other forms have added, beside half of the sum of all 4. */
const BYTE_BIAS = 127;

/** Bytes of tables of a token. */
export function tableBytes(shape: TablesShape): number {
  if (shape.tables === 'bits') return planesOf(shape) * rowStride(shape.k);
  const perQuad = shape.tables === 'exact' ? 2 * planesOf(shape) * ENTRIES : ENTRIES;
  return (rowStride(shape.k) / QUAD) * perQuad;
}

/** Bytes 2e, 2e + 1: bits `first` and `first + 1` of e, as dot2 takes them, of the first entries. */
function pattern(b: FunctionBuilder, first: 0 | 2, entries: number): Expr {
  const bit = (e: number, j: number) => (e >> (first + j)) & 1;
  const words = range(entries / 2).map((i) => {
    const [e, f] = [2 * i, 2 * i + 1];
    const word = bit(e, 0) | (bit(e, 1) << 8) | (bit(f, 0) << 16) | (bit(f, 1) << 24);
    return constant(vector('u32', 1), word);
  });
  return b.let('pattern', bitcast(concat(words), vector('u8', 2 * entries)));
}

/** The sums of the 4 activations from element `at` of q on, of all entries or of the first 8: i16. */
type Sums = (at: Expr) => Expr;

function vectorSums(b: FunctionBuilder, q: BufferRef, entries: number): Sums {
  const [low, high] = [pattern(b, 0, entries), pattern(b, 2, entries)];
  return (at) => {
    const pairs = (offset: number) => repeat(b.load(q, add(at, offset), 2), entries);
    return b.let('sums', add(dot2(low, pairs(0), 1), dot2(high, pairs(2), 1)));
  };
}

function plainSums(b: FunctionBuilder, q: BufferRef, entries: number): Sums {
  return (at) => {
    const four = range(QUAD).map((j) => b.let('a', cast(b.load(q, add(at, j)), 'i16')));
    const zero = constant(vector('i16', 1), 0);
    const sums = range(entries).map((e) =>
      b.let(
        'sum',
        four.reduce((sum, a, j) => ((e >> j) & 1 ? add(sum, a) : sum), zero),
      ),
    );
    return b.let('sums', concat(sums));
  };
}

const sumsOf = (b: FunctionBuilder, q: BufferRef, { vector }: TablesSchedule, entries: number): Sums =>
  vector ? vectorSums(b, q, entries) : plainSums(b, q, entries);

function writeExact(b: FunctionBuilder, shape: TablesShape, s: TablesSchedule): void {
  const q = b.buffer('q', 'i8', 'read');
  const tables = b.buffer('tables', 'i8', 'write');
  const n = b.scalar('n');
  const width = planesOf(shape) * rowStride(shape.k);
  const step = 64;
  threadPairs(b, n, width / step, (token, index) => {
    const sumsAt = sumsOf(b, q, s, ENTRIES);
    const first = b.let('first', add(mul(token, width), mul(index, step)));
    b.for('quad', 0, step, QUAD, (quad) => {
      const at = b.let('at', add(first, quad));
      const biased = b.let('biased', add(sumsAt(at), EXACT_BIAS));
      const halves = concat([and(biased, (1 << BASE_BITS) - 1), shift('right', biased, BASE_BITS)]);
      const bytes = cast(halves, 'u8');
      b.store(tables, mul(at, (2 * ENTRIES) / QUAD), bitcast(bytes, vector('i8', 2 * ENTRIES)));
    });
  });
}

/** Tables of one activation group, `width` columns of the token. */
function writePart(
  b: FunctionBuilder,
  { k, activationGroup }: TablesShape,
  s: TablesSchedule,
  q: BufferRef,
  { tables, bias }: { readonly tables: BufferRef; readonly bias: BufferRef },
  token: Expr,
  index: Expr,
  width: number,
): void {
  const from = b.let('from', add(mul(token, rowStride(k)), mul(index, activationGroup)));
  const entries = s.mirror ? ENTRIES / 2 : ENTRIES;
  const sumsAt = sumsOf(b, q, s, entries);
  const halves = b.var('halves', constant(vector('i16', entries), 0));
  b.for('quad', 0, width, QUAD, (quad) => {
    const at = b.let('at', add(from, quad));
    const sums = sumsAt(at);
    // Of 8 entries, the last has all activations but the fourth.
    const last = slice(sums, entries - 1, 1);
    const four = s.mirror ? add(last, cast(b.load(q, add(at, QUAD - 1)), 'i16')) : last;
    const all = b.let('all', repeat(four, entries));
    const half = b.let('half', shift('right', all, 1));
    b.set(halves, add(halves, half));
    const backwards = range(entries).map((e) => entries - 1 - e);
    const whole = s.mirror ? concat([sums, sub(all, shuffle(sums, backwards))]) : sums;
    const center = sub(constant(half.type, BYTE_BIAS), half);
    const bytes = cast(add(whole, repeat(center, ENTRIES / entries)), 'u8');
    b.store(tables, mul(at, ENTRIES / QUAD), bitcast(bytes, vector('i8', ENTRIES)));
  });
  const total = sub(int((BYTE_BIAS * width) / QUAD), cast(slice(halves, 0, 1), 'i32'));
  b.store(bias, add(mul(token, partStride({ k, activationGroup })), index), total);
}

function writeBytes(b: FunctionBuilder, shape: TablesShape, s: TablesSchedule): void {
  if (shape.to !== 'sums') {
    throw new LutraError('unsupported', `lut.tables cannot put activations of ${shape.to} into bytes`, {
      hint: 'Quantize them to sums.',
    });
  }
  const q = b.buffer('q', 'i8', 'read');
  const out = { tables: b.buffer('tables', 'i8', 'write'), bias: b.buffer('tableBias', 'i32', 'write') };
  const n = b.scalar('n');
  const { k, activationGroup } = shape;
  const parts = Math.ceil(k / activationGroup);
  const last = Math.min(activationGroup, rowStride(k) - (parts - 1) * activationGroup);
  threadPairs(b, n, parts, (token, index) => {
    const write = (width: number) => writePart(b, shape, s, q, out, token, index, width);
    if (last === activationGroup) write(last);
    else {
      b.if(
        compare('lt', index, int(parts - 1)),
        () => write(activationGroup),
        () => write(last),
      );
    }
  });
}

/** Whether entries are bytes, which activations quantized to `sums` fit. */
export const isBytes = (tables: TableForm) => tables === 'int8' || tables === 'fast';

/** Tables of activations for `lowbit.matmul.group` in family `lut`. */
export const lutTables: Kernel<TablesShape, TablesSchedule> = {
  op: 'lut.tables',
  family: 'default',
  defaultSchedule: () => ({ vector: true, mirror: false }),
  schedules({ tables }) {
    if (tables === 'bits') return [{ vector: true, mirror: false }];
    return [true, false].flatMap((vector) =>
      (isBytes(tables) ? [false, true] : [false]).map((mirror) => ({ vector, mirror })),
    );
  },
  build(name, shape, schedule) {
    if (shape.tables === 'bits') return buildBits(name, shape);
    const b = new FunctionBuilder(name);
    if (shape.tables === 'exact') writeExact(b, shape, schedule);
    else writeBytes(b, shape, schedule);
    return b.build();
  },
};
