import { LutraError } from '../common/errors.ts';
import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  cast,
  concat,
  constant,
  div,
  float,
  int,
  madd,
  max,
  min,
  mul,
  reduce,
  repeat,
  sub,
  unary,
  vector,
} from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { defaultFirst, type Kernel, rowStride } from './kernel.ts';
import { forGroups, keepFirst, LANES } from './lanes.ts';
import { forTiles } from './tiles.ts';

export type MatmulShape = {
  readonly m: number;
  readonly k: number;
  readonly elem: 'bf16' | 'f16' | 'f32' | 'i8';
};

export type MatmulSchedule = {
  /** Rows of the table in registers at a time. */
  readonly rows: number;
  /** Tokens that share the loaded rows. */
  readonly tokens: number;
  /** 32-bit lanes of a vector: 4, 8, 16 or 32. */
  readonly lanes: number;
  /** Passes over a row, for compilers that keep all operands of an iteration in registers at once: 1 or 2. */
  readonly passes: number;
  /** How far ahead the table is prefetched; 0: not at all. */
  readonly prefetchBytes: number;
};

/**
 * Partial sums of a dot. More than other reductions have, because rows are best read one after the other, as a
 * single stream, and the additions of one row must then overlap each other.
 */
const PARTS = 32;

/** Rows of one iteration of the thread loop; many for int8, whose activations are rounded in each. */
const ROW_BLOCK = { f32: 32, f16: 32, bf16: 32, i8: 128 };

/** Largest magnitude of a rounded activation: 2 k/64 products of it with 127 fit an i32 lane. */
const WHOLE_MAX = 16383;
const MAX_COLUMNS = 32768;

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

interface Product {
  readonly b: FunctionBuilder;
  readonly shape: MatmulShape;
  readonly s: MatmulSchedule;
  readonly x: BufferRef;
  readonly table: BufferRef;
  readonly rowScale: BufferRef | undefined;
  /** int8 only: the rounded activations of a tile of tokens, [tokens][stride of k]. */
  readonly whole: BufferRef | undefined;
  readonly out: BufferRef;
}

/** Rows and tokens whose dots are computed together. */
interface Tile {
  readonly row: Expr;
  readonly rows: number;
  readonly token: Expr;
  /** int8 only: what one unit of each token's rounded activations is. */
  readonly units: readonly Expr[];
  readonly tokens: number;
}

/**
 * Rounds an activation row to integers of 15 bits, so that products with int8 weights add up exactly: against
 * the rounding of the weights, theirs does not count. Returns the unit.
 */
function roundRow({ b, shape, x, whole }: Product, token: Expr, slot: number): Expr {
  const { k } = shape;
  const row = b.let('row', mul(token, rowStride(k)));
  const load = (at: Expr, count: number) => keepFirst(b.load(x, add(row, at), LANES), count);
  const largest = b.var('largest', float(0, LANES));
  forGroups(b, k, (at, count) => b.set(largest, max(largest, unary('abs', load(at, count)))));
  const peak = b.let('peak', max(reduce('max', largest), float(1e-30)));
  const factor = b.let('factor', repeat(div(float(WHOLE_MAX), peak), LANES));
  const start = slot * rowStride(k);
  forGroups(b, k, (at, count) => {
    const scaled = unary('nearest', mul(load(at, count), factor));
    // The constant first: a cast of NaN would differ between targets.
    const clamped = min(max(float(-WHOLE_MAX, LANES), scaled), float(WHOLE_MAX, LANES));
    b.store(whole!, add(at, start), cast(cast(clamped, 'i32'), 'i16'));
  });
  for (let at = Math.ceil(k / LANES) * LANES; at < rowStride(k); at += LANES) {
    b.store(whole!, start + at, constant(vector('i16', LANES), 0));
  }
  return b.let('unit', div(peak, float(WHOLE_MAX)));
}

/** One step of every dot: adds what `lanes` lanes of partial sums get from the columns at `at`. */
type AddPiece = (sums: readonly (readonly Expr[])[], at: Expr, count: number) => void;

function addFloats(
  { b, shape, s, x, table }: Product,
  tile: Tile,
  firstRow: Expr,
  firstToken: Expr,
): AddPiece {
  const stride = rowStride(shape.k);
  return (sums, at, count) => {
    const columns = b.let('columns', add(firstToken, at));
    const from = b.let('from', add(firstRow, at));
    const load = (t: number) => keepFirst(b.load(x, add(columns, t * stride), s.lanes), count);
    const inputs = range(tile.tokens).map((t) => (tile.rows === 1 ? load(t) : b.let('input', load(t))));
    sums.forEach((ofRow, r) => {
      const weight = b.let('weight', cast(b.load(table, add(from, r * stride), s.lanes), 'f32'));
      ofRow.forEach((sum, t) => {
        b.set(sum, add(sum, mul(weight, inputs[t]!)));
      });
    });
  };
}

function addIntegers({ b, shape, s, whole, table }: Product, tile: Tile, firstRow: Expr): AddPiece {
  const stride = rowStride(shape.k);
  return (sums, at) => {
    const from = b.let('from', add(firstRow, at));
    const load = (t: number) => b.load(whole!, add(at, t * stride), 2 * s.lanes);
    const inputs = range(tile.tokens).map((t) => (tile.rows === 1 ? load(t) : b.let('input', load(t))));
    sums.forEach((ofRow, r) => {
      const weight = b.let('weight', cast(b.load(table, add(from, r * stride), 2 * s.lanes), 'i16'));
      ofRow.forEach((sum, t) => {
        b.set(sum, add(sum, madd(weight, inputs[t]!)));
      });
    });
  };
}

function writeDots(product: Product, tile: Tile): void {
  const { b, shape, s, table, rowScale, out } = product;
  const { m, k, elem } = shape;
  const { row, rows, token, tokens } = tile;
  const int8 = elem === 'i8';
  const stride = rowStride(k);
  const firstRow = b.let('firstRow', mul(row, stride));
  const firstToken = b.let('firstToken', mul(token, stride));
  const pieces = PARTS / s.lanes;
  const perPass = pieces / s.passes;
  const zero = constant(vector(int8 ? 'i32' : 'f32', s.lanes), 0);
  const sums = range(pieces).map(() => range(rows).map(() => range(tokens).map(() => b.var('sums', zero))));
  const addPiece = int8
    ? addIntegers(product, tile, firstRow)
    : addFloats(product, tile, firstRow, firstToken);
  const columnsPerLane = int8 ? 2 : 1;
  const ahead = Math.floor(s.prefetchBytes / { f32: 4, f16: 2, bf16: 2, i8: 1 }[elem]);
  for (const pass of range(s.passes)) {
    const addGroup = (at: Expr, count: number) => {
      if (ahead > 0 && pass === 0) {
        for (const r of range(rows)) b.prefetch(table, add(add(firstRow, at), r * stride + ahead));
      }
      for (let i = pass * perPass; i < (pass + 1) * perPass; i++) {
        const piece = i * s.lanes * columnsPerLane;
        if (piece < count) addPiece(sums[i]!, b.let('at', add(at, piece)), count - piece);
      }
    };
    forGroups(b, int8 ? stride : k, addGroup, PARTS * columnsPerLane);
  }
  for (const r of range(rows)) {
    for (const t of range(tokens)) {
      const parts = concat(sums.map((piece) => piece[r]![t]!));
      const to = add(add(mul(add(token, t), rowStride(m)), row), r);
      const dot = reduce('add', int8 ? cast(parts, 'f32') : parts);
      const scaled = () => mul(mul(dot, b.load(rowScale!, add(row, r))), tile.units[t]!);
      b.store(out, to, int8 ? scaled() : dot);
    }
  }
}

function build(name: string, shape: MatmulShape, s: MatmulSchedule): LoopFunction {
  const { m, k, elem } = shape;
  const int8 = elem === 'i8';
  if (int8 && k > MAX_COLUMNS) {
    throw new LutraError('unsupported', `matmul of int8 is exact up to ${MAX_COLUMNS} columns, got ${k}`);
  }
  const b = new FunctionBuilder(name);
  const product: Product = {
    b,
    shape,
    s,
    x: b.buffer('x', 'f32', 'read'),
    table: b.buffer('table', elem, 'read'),
    rowScale: int8 ? b.buffer('rowScale', 'f32', 'read') : undefined,
    whole: int8 ? b.local('whole', 'i16', s.tokens * rowStride(k)) : undefined,
    out: b.buffer('out', 'f32', 'write'),
  };
  const n = b.scalar('n');
  b.thread('block', Math.ceil(m / ROW_BLOCK[elem]), (block) => {
    const first = b.let('first', mul(block, ROW_BLOCK[elem]));
    const rowsHere = b.let('rowsHere', min(sub(int(m), first), int(ROW_BLOCK[elem])));
    const forRows = (token: Expr, tokens: number, units: readonly Expr[]) =>
      forTiles(b, rowsHere, s.rows, (inBlock, rows) => {
        const row = b.let('row', add(first, inBlock));
        writeDots(product, { row, rows, token, tokens, units });
      });
    forTiles(b, n, s.tokens, (token, tokens) => {
      const units = int8 ? range(tokens).map((t) => roundRow(product, add(token, t), t)) : [];
      forRows(token, tokens, units);
    });
  });
  return b.build();
}
function defaultSchedule(_: MatmulShape, { vectorBytes }: Machine): MatmulSchedule {
  return {
    // One row at a time is one stream, which processors read up to twice as fast as several.
    rows: 1,
    tokens: vectorBytes >= 32 ? 2 : 1,
    lanes: Math.max(4, vectorBytes / 4),
    // V8 loads all that an iteration needs before it computes: 8 accumulators and 16 operands do not fit.
    passes: vectorBytes === 16 ? 2 : 1,
    prefetchBytes: 0,
  };
}

function schedules(shape: MatmulShape, machine: Machine): readonly MatmulSchedule[] {
  const base = defaultSchedule(shape, machine);
  const all = [1, 2, 4].flatMap((rows) =>
    [1, 2, 4].flatMap((tokens) =>
      [0, 1024, 4096].map((prefetchBytes) => ({ ...base, rows, tokens, prefetchBytes })),
    ),
  );
  return defaultFirst(
    base,
    all.filter((s) => machine.vectorBytes > 4 || s.rows * s.tokens <= 2),
  );
}

/** Rows of floats, or of int8 with a scale each, by f32 activations: the output head. Padding of m is not written. */
export const matmul: Kernel<MatmulShape, MatmulSchedule> = {
  op: 'matmul',
  family: 'default',
  defaultSchedule,
  schedules,
  build,
};
