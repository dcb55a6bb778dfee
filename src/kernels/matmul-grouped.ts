import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
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
} from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { defaultFirst, type Kernel, rowStride } from './kernel.ts';
import { groupsOf, PLANE_BITS, planesStride } from './matmul-quantize.ts';
import { forSteps, forTiles } from './tiles.ts';

export type MatmulGroupedShape = {
  readonly m: number;
  readonly k: number;
  readonly bits: 4 | 6;
  readonly group: 32 | 64;
  readonly planes: 1 | 2;
  /** Whether what comes out is bounds: how small and how large the stored table's products can be. */
  readonly bounds: boolean;
};

export type MatmulGroupedSchedule = {
  /** What multiplies: `dot4` into i32, `dot2` into i16 that are widened in time, `madd` of i16, scalar code. */
  readonly multiply: 'dot4' | 'dot2' | 'madd' | 'scalar';
  /** Rows in registers at a time: 4, 8 or 16. */
  readonly rows: number;
  /** Tokens in registers at a time. */
  readonly tokens: number;
  /** Steps of 8 (4 bits) or 16 columns written out in the innermost loop. */
  readonly unroll: number;
  /** How far ahead the table is prefetched; 0: not at all. */
  readonly prefetchBytes: number;
};

/** A schedule that is not scalar. */
type VectorSchedule = MatmulGroupedSchedule & { readonly multiply: 'dot4' | 'dot2' | 'madd' };

/** Rows of a block of the encoding. */
const ROWS = 16;
/** Bytes of 4 columns of those rows, a byte each. */
const FIELD = 4 * ROWS;
/** Columns of a step: as many as whole parts of `FIELD` bytes hold. */
const STEP = { 4: 8, 6: 16 };
const SCALE_BYTES = 2 * ROWS;
/** What bounds are wider by than |x| error + |d| packed: more than any sum of values too small for f32. */
const BOUND_FLOOR = 2 ** -120;

interface Params {
  readonly q: BufferRef;
  readonly factor: BufferRef;
  readonly sum: BufferRef;
  readonly table: BufferRef;
  readonly norm: BufferRef | undefined;
  readonly rowNorm: BufferRef | undefined;
  readonly out: BufferRef;
  readonly high: BufferRef | undefined;
  readonly n: Expr;
}

interface Product {
  readonly b: FunctionBuilder;
  readonly shape: MatmulGroupedShape;
  readonly s: VectorSchedule;
  readonly p: Params;
  /** The first of the rows in the block. */
  readonly inBlock: Expr;
  readonly token: Expr;
  readonly tokens: number;
}

const codeBytes = ({ bits, group }: MatmulGroupedShape) => (ROWS * group * bits) / 8;
const blockBytes = (shape: MatmulGroupedShape) => codeBytes(shape) + SCALE_BYTES;
const rowBlocks = (m: number) => Math.ceil(m / ROWS);
const bytesOfRows = (shape: MatmulGroupedShape) => groupsOf(shape) * blockBytes(shape);

/** Right shift of bytes as 16-bit lanes; what crosses between neighbours is masked away by the caller. */
function shiftBytes(bytes: Expr, by: number): Expr {
  return bitcast(shift('right', bitcast(bytes, vector('u16', bytes.type.lanes / 2)), by), bytes.type);
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
    const from = b.let('from', add(codesAt, mul(at, (ROWS * bits) / 8)));
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
    const zero = mul(b.load(p.sum, add(own, t * stride)), 2 ** (bits - 1));
    return sub(all, repeat(zero, s.rows));
  });
}

/** Stores a token's products with some rows, or their bounds. */
function storeRows(
  b: FunctionBuilder,
  p: Params,
  { m }: MatmulGroupedShape,
  token: Expr,
  row: Expr,
  dots: Expr,
): void {
  const { lanes } = dots.type;
  const to = b.let('to', add(mul(token, rowStride(m)), row));
  if (p.norm === undefined || p.rowNorm === undefined || p.high === undefined) {
    b.store(p.out, to, dots);
    return;
  }
  const normAt = b.let('normAt', mul(token, rowStride(2)));
  const term = (i: number) => {
    const norm = repeat(b.load(p.norm!, add(normAt, i)), lanes);
    return mul(norm, b.load(p.rowNorm!, add(row, i * rowStride(m)), lanes));
  };
  const within = b.let('within', add(add(term(0), term(1)), float(BOUND_FLOOR, lanes)));
  const middle = b.let('middle', dots);
  b.store(p.out, to, sub(middle, within));
  b.store(p.high, to, add(middle, within));
}

/** A row of blocks by all tokens. */
function writeRows(
  b: FunctionBuilder,
  p: Params,
  shape: MatmulGroupedShape,
  s: VectorSchedule,
  blockRow: Expr,
): void {
  const start = b.let('start', mul(blockRow, bytesOfRows(shape)));
  const firstRow = b.let('firstRow', mul(blockRow, ROWS));
  const stride = rowStride(groupsOf(shape));
  forTiles(b, p.n, s.tokens, (token, tokens) => {
    // All rows of a group in turns, so that the table comes from memory while it is multiplied.
    const parts = Array.from({ length: ROWS / s.rows }, (_, i) => {
      const dots = Array.from({ length: tokens }, () => b.var('dots', float(0, s.rows)));
      return { inBlock: i * s.rows, dots };
    });
    b.for('g', 0, groupsOf(shape), 1, (g) => {
      const block = b.let('block', add(start, mul(g, blockBytes(shape))));
      for (const { inBlock, dots } of parts) {
        const sums = groupSums({ b, shape, s, p, inBlock: int(inBlock), token, tokens }, g, block);
        const stored = b.load(p.table, add(block, codeBytes(shape) + 2 * inBlock), 2 * s.rows);
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

/** The codes of one row of a step, 4 columns after the other, as scalars. */
function scalarCodes(b: FunctionBuilder, { bits }: MatmulGroupedShape, p: Params, at: Expr): readonly Expr[] {
  const four = [0, 1, 2, 3];
  const bytes = (v: number) =>
    four.map((j) => b.let('byte', cast(b.load(p.table, add(at, v * FIELD + j)), 'i32')));
  const first = bytes(0);
  if (bits === 4) return [...first.map((e) => and(e, 15)), ...first.map((e) => shift('right', e, 4))];
  const parts = [first, bytes(1), bytes(2)];
  const top = four.map((j) =>
    parts.map((part, v) => shift('left', shift('right', part[j]!, 6), 2 * v)).reduce((a, e) => add(a, e)),
  );
  return [...parts.flat().map((e) => and(e, 63)), ...top];
}

/** The same without vectors, in little code. Rows are the innermost loop, which C compilers vectorize. */
function writeScalar(b: FunctionBuilder, p: Params, shape: MatmulGroupedShape): void {
  const { m, bits, group, planes } = shape;
  const dots = b.local('dots', 'f32', ROWS);
  const sums = b.local('sums', 'i32', ROWS);
  const groups = groupsOf(shape);
  const stepBytes = (STEP[bits] * ROWS * bits) / 8;
  b.thread('blockRow', rowBlocks(m), (blockRow) => {
    const start = b.let('start', mul(blockRow, bytesOfRows(shape)));
    b.for('token', 0, p.n, 1, (token) => {
      const x = b.let('x', mul(token, planesStride(shape)));
      b.for('row', 0, ROWS, 1, (row) => b.store(dots, row, float(0)));
      b.for('g', 0, groups, 1, (g) => {
        const block = b.let('block', add(start, mul(g, blockBytes(shape))));
        const own = b.let('own', add(mul(token, rowStride(groups)), g));
        const less = b.let('less', mul(b.load(p.sum, own), -(2 ** (bits - 1))));
        b.for('row', 0, ROWS, 1, (row) => b.store(sums, row, less));
        b.for('step', 0, group / STEP[bits], 1, (step) => {
          const from = b.let('from', add(add(x, mul(g, planes * group)), mul(step, STEP[bits])));
          const whole = Array.from({ length: STEP[bits] }, (_, i) => {
            const plane = (v: number) => cast(b.load(p.q, add(from, v * group + i)), 'i32');
            return b.let(
              'whole',
              planes === 1 ? plane(0) : add(shift('left', plane(0), PLANE_BITS), plane(1)),
            );
          });
          const codesAt = b.let('codesAt', add(block, mul(step, stepBytes)));
          b.for('row', 0, ROWS, 1, (row) => {
            const codes = scalarCodes(b, shape, p, b.let('at', add(codesAt, mul(row, 4))));
            const terms = codes.map((code, i) => mul(code, whole[i]!));
            b.store(
              sums,
              row,
              terms.reduce((total, term) => add(total, term), b.load(sums, row)),
            );
          });
        });
        const factor = b.let('factor', b.load(p.factor, own));
        b.for('row', 0, ROWS, 1, (row) => {
          const scaleAt = add(add(block, codeBytes(shape)), mul(row, 2));
          const scale = cast(bitcast(b.load(p.table, scaleAt, 2), vector('bf16', 1)), 'f32');
          const term = mul(cast(b.load(sums, row), 'f32'), mul(scale, factor));
          b.store(dots, row, add(b.load(dots, row), term));
        });
      });
      b.for('row', 0, ROWS, 1, (row) => {
        const to = b.let('to', add(mul(blockRow, ROWS), row));
        storeRows(b, p, shape, token, to, b.load(dots, row));
      });
    });
  });
}

function params(b: FunctionBuilder, { bounds }: MatmulGroupedShape): Params {
  return {
    q: b.buffer('q', 'i8', 'read'),
    factor: b.buffer('factor', 'f32', 'read'),
    sum: b.buffer('sum', 'i32', 'read'),
    norm: bounds ? b.buffer('norm', 'f32', 'read') : undefined,
    table: b.buffer('table', 'u8', 'read'),
    rowNorm: bounds ? b.buffer('rowNorm', 'f32', 'read') : undefined,
    out: b.buffer('out', 'f32', 'write'),
    high: bounds ? b.buffer('high', 'f32', 'write') : undefined,
    n: b.scalar('n'),
  };
}

function build(name: string, shape: MatmulGroupedShape, s: MatmulGroupedSchedule): LoopFunction {
  const b = new FunctionBuilder(name);
  const p = params(b, shape);
  const { multiply } = s;
  if (multiply === 'scalar') writeScalar(b, p, shape);
  else b.thread('blockRow', rowBlocks(shape.m), (row) => writeRows(b, p, shape, { ...s, multiply }, row));
  return b.build();
}

function defaultSchedule(
  { bits, group, planes }: MatmulGroupedShape,
  machine: Machine,
): MatmulGroupedSchedule {
  const { native, vectorBytes, dotCodeMax } = machine;
  if (vectorBytes === 4) return { multiply: 'scalar', rows: 1, tokens: 1, unroll: 1, prefetchBytes: 0 };
  const multiply = native.has('dot4') && dotCodeMax >= 63 ? 'dot4' : native.has('dot2') ? 'dot2' : 'madd';
  // V8 loads all operands of an iteration before it computes: there must be room for them. Less than 8 rows would leave
  // it no pairs of vectors to join; `madd`, which wants most room, was 1.2 to 1.4 times as fast with 4.
  if (vectorBytes === 16) {
    const rows = bits === 4 ? ROWS : multiply === 'madd' ? 4 : 8;
    return { multiply, rows, tokens: 1, unroll: 1, prefetchBytes: 0 };
  }
  return { multiply, rows: ROWS, tokens: 4 / planes, unroll: group / STEP[bits], prefetchBytes: 512 };
}

function schedules(shape: MatmulGroupedShape, machine: Machine): readonly MatmulGroupedSchedule[] {
  const base = defaultSchedule(shape, machine);
  const whole = shape.group / STEP[shape.bits];
  const all = [0, 512].flatMap((prefetchBytes) =>
    [1, whole].flatMap((unroll) =>
      [1, 4].flatMap((tokens) =>
        [Math.min(8, base.rows), ROWS].map((rows) => ({ ...base, rows, tokens, unroll, prefetchBytes })),
      ),
    ),
  );
  return machine.vectorBytes === 4 ? [base] : defaultFirst(base, all);
}

/**
 * Rows of 4 or 6 bits with a scale for every group of columns (src/encodings/grouped-rows.ts) by activations that
 * `matmul.quantize` made: the output head. Rows are lanes, activations are broadcast. Sums of a group are exact;
 * the groups add up in order, so that every schedule and machine gives the same bits.
 */
export const matmulGrouped: Kernel<MatmulGroupedShape, MatmulGroupedSchedule> = {
  op: 'matmul',
  family: 'grouped',
  defaultSchedule,
  schedules,
  build,
};
