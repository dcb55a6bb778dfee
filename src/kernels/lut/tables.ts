/**
 * Tables of sums of activations, for every 4 adjacent columns the sums that 4 bits of weights can ask for: entry e has
 * column j where bit j of e is set. Two forms (`TableForm`):
 *
 * `exact`: sum + 512 = 32 high + low of int8 activations, both below 32: 16 bytes of low, 16 of high. 8 entries add up
 * in a byte. Activations of int16 are two planes of int8 with a table each.
 *
 * `int8`, `fast`: half of what +1 for a set bit and -1 for another one give, times 127 / the largest in the activation
 * group, rounded, plus 128: 16 bytes, and a float for each activation group. `fast` differs in how they are added.
 */

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
  div,
  dot2,
  float,
  int,
  max,
  mul,
  reduce,
  repeat,
  shift,
  shuffle,
  slice,
  sub,
  unary,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { type GroupShape, PLANE_SHIFT, partStride, planesOf, tokenStride } from '../group/shape.ts';
import { type Kernel, rowStride } from '../kernel.ts';
import { threadPairs } from '../lanes.ts';
import { buildBits } from './bits.ts';

/** Forms of tables; `bits` are none, but what family `popcount` reads instead (`bits.ts`). */
export type TableForm = 'exact' | 'int8' | 'fast' | 'bits';

export type TablesShape = Pick<GroupShape, 'k' | 'activationGroup' | 'to'> & { readonly tables: TableForm };

export type TablesSchedule = {
  /** Whether the 16 entries are made at once, or one by one, as a plain program would. */
  readonly vector: boolean;
  /** Of rounded tables, whether only 8 entries are computed: entry 15 - e is entry e with the other sign. */
  readonly mirror: boolean;
};

/** Columns of a table, and entries. */
export const QUAD = 4;
export const ENTRIES = 16;

/** What exact entries have added, so that they are not negative, and their base. */
export const EXACT_BIAS = 512;
export const BASE_BITS = 5;

/** What entries of the other forms have added. */
export const BYTE_BIAS = 128;

/** Bytes of tables of a token. */
export function tableBytes(shape: TablesShape): number {
  if (shape.tables === 'bits') return planesOf(shape) * rowStride(shape.k);
  const perQuad = shape.tables === 'exact' ? 2 * planesOf(shape) * ENTRIES : ENTRIES;
  return (rowStride(shape.k) / QUAD) * perQuad;
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

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
  shape: TablesShape,
  s: TablesSchedule,
  q: BufferRef,
  { tables, scale }: { readonly tables: BufferRef; readonly scale: BufferRef },
  token: Expr,
  index: Expr,
  width: number,
): void {
  const { k, activationGroup, to } = shape;
  const from = b.let('from', add(mul(token, tokenStride(shape)), mul(index, activationGroup)));
  // Of 8 entries, the last has all activations but the fourth.
  const entries = s.mirror ? ENTRIES / 2 : ENTRIES;
  const sumsAt = sumsOf(b, q, s, entries);
  const fourth = (at: Expr) => cast(b.load(q, add(at, QUAD - 1)), 'i32');
  /** Twice the sum, less that of all 4. */
  const signed = (quad: Expr): Expr => {
    const at = b.let('at', add(from, quad));
    const high = cast(sumsAt(at), 'i32');
    const sums =
      to === 'int8'
        ? high
        : add(shift('left', high, PLANE_SHIFT), cast(sumsAt(b.let('low', add(at, rowStride(k)))), 'i32'));
    const all = b.let('all', sums);
    const last = slice(all, entries - 1, 1);
    const four = !s.mirror
      ? last
      : to === 'int8'
        ? add(last, fourth(at))
        : add(add(last, shift('left', fourth(at), PLANE_SHIFT)), fourth(add(at, rowStride(k))));
    return b.let('signed', sub(shift('left', all, 1), repeat(four, entries)));
  };
  const largest = b.var('largest', constant(vector('i32', entries), 1));
  const size = (sums: Expr) => (s.mirror ? unary('abs', sums) : sums);
  b.for('quad', 0, width, QUAD, (quad) => b.set(largest, max(largest, size(signed(quad)))));
  const peak = b.let('peak', cast(reduce('max', largest), 'f32'));
  const factor = b.let('factor', repeat(div(float(127), peak), entries));
  const to0 = b.let('to', add(mul(token, rowStride(k) * 4), mul(index, activationGroup * 4)));
  b.for('quad', 0, width, QUAD, (quad) => {
    const scaled = unary('nearest', mul(cast(signed(quad), 'f32'), factor));
    const bytes = b.let('bytes', cast(add(cast(scaled, 'i32'), BYTE_BIAS), 'u8'));
    // 256 - byte: 128 more than the negative.
    const backwards = range(entries).map((e) => entries - 1 - e);
    const others = () => sub(constant(bytes.type, 0), shuffle(bytes, backwards));
    const all = s.mirror ? concat([bytes, others()]) : bytes;
    b.store(tables, add(to0, mul(quad, 4)), bitcast(all, vector('i8', ENTRIES)));
  });
  b.store(scale, add(mul(token, partStride(shape)), index), div(peak, float(254)));
}

function writeRounded(b: FunctionBuilder, shape: TablesShape, s: TablesSchedule): void {
  const q = b.buffer('q', 'i8', 'read');
  const out = { tables: b.buffer('tables', 'i8', 'write'), scale: b.buffer('tableScale', 'f32', 'write') };
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

const rounds = (tables: TableForm) => tables === 'int8' || tables === 'fast';

/** Tables of activations for `lowbit.matmul.group` in family `lut`. */
export const lutTables: Kernel<TablesShape, TablesSchedule> = {
  op: 'lut.tables',
  family: 'default',
  defaultSchedule: ({ tables }) => ({ vector: true, mirror: rounds(tables) }),
  schedules({ tables }) {
    if (tables === 'bits') return [{ vector: true, mirror: false }];
    return [true, false].flatMap((vector) =>
      (rounds(tables) ? [true, false] : [false]).map((mirror) => ({ vector, mirror })),
    );
  },
  build(name, shape, schedule) {
    if (shape.tables === 'bits') return buildBits(name, shape);
    const b = new FunctionBuilder(name);
    if (shape.tables === 'exact') writeExact(b, shape, schedule);
    else writeRounded(b, shape, schedule);
    return b.build();
  },
};
