/** Rows of blocks as lanes, by several tokens at a time. */
import { BLOCK_ROWS, blockBytes, blockCodeBytes, zeroCode } from '../../encodings/grouped-rows.ts';
import type { FunctionBuilder } from '../../loops/builder.ts';
import {
  add,
  addPairs,
  and,
  binary,
  bitcast,
  cast,
  constant,
  dot2,
  dot4,
  float,
  int,
  madd,
  mul,
  repeat,
  shift,
  sub,
  vector,
} from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride, type VectorMultiply } from '../kernel.ts';
import { shiftBytes } from '../lowbit.ts';
import { groupsOf, PLANE_BITS, planesStride } from '../matmul-quantize.ts';
import { forSteps, forTiles } from '../tiles.ts';
import {
  blockRowBytes,
  FIELD,
  type GroupedParams,
  type MatmulGroupedSchedule,
  type MatmulGroupedShape,
  STEP,
  storeRows,
} from './grouped.ts';

/** A schedule that is not scalar. */
export type VectorSchedule = MatmulGroupedSchedule & { readonly multiply: VectorMultiply };

interface Product {
  readonly b: FunctionBuilder;
  readonly shape: MatmulGroupedShape;
  readonly s: VectorSchedule;
  readonly p: GroupedParams;
  /** The first of the rows in the block. */
  readonly inBlock: Expr;
  readonly token: Expr;
  readonly tokens: number;
}

/** The codes of a step, one vector for every 4 columns: rows are lanes of 4 bytes. */
function loadCodes({ b, p, s, shape }: Product, at: Expr): readonly Expr[] {
  const part = (v: number) => b.let('part', b.load(p.table, add(at, v * FIELD), 4 * s.rows));
  if (shape.bits === 4) {
    const bytes = part(0);
    return [b.let('codes', and(bytes, 15)), b.let('codes', and(shiftBytes(bytes, 4), 15))];
  }
  const parts = [part(0), part(1), part(2)];
  const tops = parts.map((bytes, v) => and(shiftBytes(bytes, 6 - 2 * v), 3 << (2 * v)));
  const top = tops.reduce((a, bits) => binary('or', a, bits));
  return [...parts.map((bytes) => b.let('codes', and(bytes, 63))), b.let('codes', top)];
}

/** Products that an i16 lane of pairs holds: pairs of codes times activations of a plane. */
function capacity({ bits, planes }: MatmulGroupedShape, plane: number): number {
  const activation = planes === 2 && plane === 1 ? 1 << (PLANE_BITS - 1) : 127;
  return Math.floor(32767 / (2 * (2 ** bits - 1) * activation));
}

/** The sum of a group's products: of one plane of one token. */
interface Sum {
  /** The products of a step; one vector of activations for each of codes. */
  add(codes: readonly Expr[], fours: readonly Expr[]): void;
  total(): Expr;
}

const zeros = (b: FunctionBuilder, name: string, kind: 'i16' | 'i32', lanes: number) =>
  b.var(name, constant(vector(kind, lanes), 0));

/** Adds in i16 as long as that cannot overflow: over the whole group, or within a step. */
function dot2Sum({ b, s, shape }: Product, plane: number): Sum {
  const { bits, group } = shape;
  const most = 2 ** bits - 1;
  const room = capacity(shape, plane);
  const fields = STEP[bits] / 4;
  if (room >= fields) {
    const narrow = Array.from({ length: Math.ceil(group / 4 / room) }, () =>
      zeros(b, 'narrow', 'i16', 2 * s.rows),
    );
    return {
      add: (codes, fours) =>
        codes.forEach((code, f) => {
          const sum = narrow[f % narrow.length]!;
          b.set(sum, add(sum, dot2(code, fours[f]!, most)));
        }),
      total: () => narrow.map(addPairs).reduce((a, e) => add(a, e)),
    };
  }
  const total = zeros(b, 'total', 'i32', s.rows);
  return {
    add(codes, fours) {
      const products = codes.map((code, f) => dot2(code, fours[f]!, most));
      for (let first = 0; first < products.length; first += room) {
        const narrow = products.slice(first, first + room).reduce((a, e) => add(a, e));
        b.set(total, add(total, addPairs(narrow)));
      }
    },
    total: () => total,
  };
}

function dot4Sum({ b, s, shape }: Product): Sum {
  const total = zeros(b, 'total', 'i32', s.rows);
  return {
    add: (codes, fours) =>
      codes.forEach((code, f) => {
        b.set(total, dot4(total, code, fours[f]!, 2 ** shape.bits - 1));
      }),
    total: () => total,
  };
}

/** Even and odd columns apart, as 16-bit lanes. */
function maddSum({ b, s }: Product): Sum {
  const total = zeros(b, 'total', 'i32', s.rows);
  const lanes = 2 * s.rows;
  return {
    add: (codes, fours) =>
      codes.forEach((code, f) => {
        const words = bitcast(code, vector('u16', lanes));
        const [even, odd] = [and(words, 255), shift('right', words, 8)].map((e) =>
          bitcast(e, vector('i16', lanes)),
        );
        const four = b.let('words', bitcast(fours[f]!, vector('i16', lanes)));
        b.set(total, add(total, madd(even!, shift('right', shift('left', four, 8), 8))));
        b.set(total, add(total, madd(odd!, shift('right', four, 8))));
      }),
    total: () => total,
  };
}

const SUMS = { dot4: dot4Sum, dot2: dot2Sum, madd: maddSum };

/** [token] exact sums of a group's products with weights: codes less `zero`. */
function groupSums(product: Product, g: Expr, block: Expr): readonly Expr[] {
  const { b, shape, s, p, token, tokens, inBlock } = product;
  const { bits, group, planes } = shape;
  const sums = Array.from({ length: tokens }, () =>
    Array.from({ length: planes }, (_, plane) => SUMS[s.multiply](product, plane)),
  );
  const codesAt = b.let('codesAt', add(block, mul(inBlock, 4)));
  const x = b.let('x', add(mul(token, planesStride(shape)), mul(g, planes * group)));
  forSteps(b, 0, group, STEP[bits], s.unroll, (at) => {
    const from = b.let('from', add(codesAt, mul(at, (BLOCK_ROWS * bits) / 8)));
    if (s.prefetchBytes > 0) {
      for (let line = 0; line < STEP[bits] * 2 * bits; line += 64) {
        b.prefetch(p.table, add(from, s.prefetchBytes + line));
      }
    }
    const codes = loadCodes(product, from);
    const column = b.let('column', add(x, at));
    sums.forEach((ofPlanes, t) => {
      ofPlanes.forEach((sum, plane) => {
        const fours = codes.map((_, f) => {
          const four = add(column, 4 * f + plane * group + t * planesStride(shape));
          return b.let('four', repeat(b.load(p.q, four, 4), s.rows));
        });
        sum.add(codes, fours);
      });
    });
  });
  const stride = rowStride(groupsOf(shape));
  const own = b.let('own', add(mul(token, stride), g));
  return sums.map(([high, low], t) => {
    const all =
      low === undefined ? high!.total() : add(shift('left', high!.total(), PLANE_BITS), low.total());
    const zero = mul(b.load(p.sum, add(own, t * stride)), zeroCode(shape));
    return sub(all, repeat(zero, s.rows));
  });
}

/** A row of blocks by all tokens. */
export function writeRows(
  b: FunctionBuilder,
  p: GroupedParams,
  shape: MatmulGroupedShape,
  s: VectorSchedule,
  blockRow: Expr,
): void {
  const start = b.let('start', mul(blockRow, blockRowBytes(shape)));
  const firstRow = b.let('firstRow', mul(blockRow, BLOCK_ROWS));
  const stride = rowStride(groupsOf(shape));
  forTiles(b, p.n, s.tokens, (token, tokens) => {
    // All rows of a group in turns, so that the table comes from memory while it is multiplied.
    const parts = Array.from({ length: BLOCK_ROWS / s.rows }, (_, i) => {
      const dots = Array.from({ length: tokens }, () => b.var('dots', float(0, s.rows)));
      return { inBlock: i * s.rows, dots };
    });
    b.for('g', 0, groupsOf(shape), 1, (g) => {
      const block = b.let('block', add(start, mul(g, blockBytes(shape))));
      for (const { inBlock, dots } of parts) {
        const sums = groupSums({ b, shape, s, p, inBlock: int(inBlock), token, tokens }, g, block);
        const stored = b.load(p.table, add(block, blockCodeBytes(shape) + 2 * inBlock), 2 * s.rows);
        const scale = b.let('scale', cast(bitcast(stored, vector('bf16', s.rows)), 'f32'));
        sums.forEach((sum, t) => {
          const factor = b.load(p.factor, add(add(mul(token, stride), g), t * stride));
          const scales = mul(scale, repeat(factor, s.rows));
          b.set(dots[t]!, add(dots[t]!, mul(cast(sum, 'f32'), scales)));
        });
      }
    });
    for (const { inBlock, dots } of parts) {
      const row = b.let('row', add(firstRow, inBlock));
      dots.forEach((sum, t) => {
        storeRows(b, p, shape, add(token, t), row, sum);
      });
    }
  });
}
