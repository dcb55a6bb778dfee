import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
import { add, cast, concat, float, int, min, mul, reduce, sub } from '../loops/expr.ts';
import type { Expr, LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { defaultFirst, type Kernel, rowStride } from './kernel.ts';
import { forGroups, keepFirst } from './lanes.ts';
import { forTiles } from './tiles.ts';

export type MatmulShape = {
  readonly m: number;
  readonly k: number;
  readonly elem: 'bf16' | 'f16' | 'f32' | 'i8';
};

export type MatmulSchedule = {
  /** Rows of the table in registers at a time; a power of two up to 8. */
  readonly rows: number;
  /** Tokens that share the loaded rows. */
  readonly tokens: number;
  /** Columns of a vector: 4, 8, 16 or 32. */
  readonly lanes: number;
  /** Passes over a row, for compilers that keep all operands of a loop in registers at once: 1 or 2. */
  readonly passes: number;
  /** How far ahead the table is prefetched; 0: not at all. */
  readonly prefetchBytes: number;
};

/** Rows of one iteration of the thread loop. */
const ROW_BLOCK = 32;

/**
 * Partial sums of a dot. More than other reductions have, because rows are best read one after the other, as a
 * single stream, and the additions of one row must then overlap each other.
 */
const PARTS = 32;

interface Product {
  readonly b: FunctionBuilder;
  readonly shape: MatmulShape;
  readonly s: MatmulSchedule;
  readonly x: BufferRef;
  readonly table: BufferRef;
  readonly rowScale: BufferRef | undefined;
  readonly out: BufferRef;
}

/** Dots of `rows` rows from `row` on with `tokens` tokens from `token` on: `PARTS` partial sums each. */
function writeDots(
  { b, shape, s, x, table, rowScale, out }: Product,
  row: Expr,
  rows: number,
  token: Expr,
  tokens: number,
): void {
  const { m, k, elem } = shape;
  const stride = rowStride(k);
  const range = (count: number) => Array.from({ length: count }, (_, i) => i);
  const pieces = range(PARTS / s.lanes).map((i) => i * s.lanes);
  const perPass = pieces.length / s.passes;
  const firstRow = b.let('from', mul(row, stride));
  const firstToken = b.let('x', mul(token, stride));
  const sums = range(rows).map(() =>
    range(tokens).map(() => pieces.map(() => b.var('sums', float(0, s.lanes)))),
  );
  const ahead = Math.floor(s.prefetchBytes / { f32: 4, f16: 2, bf16: 2, i8: 1 }[elem]);
  const addGroup = (pass: number, at: Expr, count: number) => {
    const columns = b.let('columns', add(firstToken, at));
    const from = b.let('at', add(firstRow, at));
    if (ahead > 0 && pass === 0) {
      for (const r of range(rows)) b.prefetch(table, add(from, r * stride + ahead));
    }
    pieces.forEach((piece, i) => {
      if (piece >= count || Math.floor(i / perPass) !== pass) return;
      const load = (t: number) =>
        keepFirst(b.load(x, add(columns, t * stride + piece), s.lanes), count - piece);
      const inputs = range(tokens).map((t) => (rows === 1 ? load(t) : b.let('input', load(t))));
      sums.forEach((ofRow, r) => {
        const stored = b.load(table, add(from, r * stride + piece), s.lanes);
        const weight = b.let('weight', cast(elem === 'i8' ? cast(stored, 'i32') : stored, 'f32'));
        ofRow.forEach((ofToken, t) => {
          b.set(ofToken[i]!, add(ofToken[i]!, mul(weight, inputs[t]!)));
        });
      });
    });
  };
  for (const pass of range(s.passes)) {
    forGroups(b, k, (at, count) => addGroup(pass, at, count), PARTS);
  }
  sums.forEach((ofRow, r) => {
    ofRow.forEach((ofToken, t) => {
      const dot = reduce('add', concat(ofToken));
      const to = add(add(mul(add(token, t), rowStride(m)), row), r);
      b.store(out, to, rowScale === undefined ? dot : mul(dot, b.load(rowScale, add(row, r))));
    });
  });
}

function build(name: string, shape: MatmulShape, s: MatmulSchedule): LoopFunction {
  const b = new FunctionBuilder(name);
  const product: Product = {
    b,
    shape,
    s,
    x: b.buffer('x', 'f32', 'read'),
    table: b.buffer('table', shape.elem, 'read'),
    rowScale: shape.elem === 'i8' ? b.buffer('rowScale', 'f32', 'read') : undefined,
    out: b.buffer('out', 'f32', 'write'),
  };
  const n = b.scalar('n');
  b.thread('block', Math.ceil(shape.m / ROW_BLOCK), (block) => {
    const first = b.let('firstRow', mul(block, ROW_BLOCK));
    const rows = b.let('rows', min(sub(int(shape.m), first), int(ROW_BLOCK)));
    forTiles(b, rows, s.rows, (inBlock, count) => {
      const row = b.let('row', add(first, inBlock));
      forTiles(b, n, s.tokens, (token, size) => writeDots(product, row, count, token, size));
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
