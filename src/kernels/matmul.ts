import { FunctionBuilder } from '../loops/builder.ts';
import { add, compare, div, int, min, mul } from '../loops/expr.ts';
import type { LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { defaultFirst, type Kernel, rowStride } from './kernel.ts';
import {
  type MatmulSchedule,
  type MatmulShape,
  PARTS,
  type Product,
  WAYS,
  writeDot,
  writeDots,
} from './matmul/dots.ts';
import { forTiles } from './tiles.ts';

/**
 * Rows of one iteration of the thread loop: many, because activations are prepared in each; few enough to stay
 * in a cache for the next tokens.
 */
const ROW_BLOCK = 64;

function build(name: string, shape: MatmulShape, s: MatmulSchedule): LoopFunction {
  const { m, k, elem } = shape;
  const b = new FunctionBuilder(name);
  const way = WAYS[elem];
  const x = b.buffer('x', 'f32', 'read');
  const table = b.buffer('table', elem, 'read');
  const out = b.buffer('out', 'f32', 'write');
  const inputs = b.local('inputs', 'f32', s.tokens * rowStride(k));
  const partial = s.tokens === 1 ? undefined : b.local('partial', 'f32', ROW_BLOCK * s.tokens * PARTS);
  const product: Product = { b, shape, s, x, table, inputs };
  const n = b.scalar('n');
  b.thread('block', Math.ceil(m / ROW_BLOCK), (block) => {
    const first = b.let('first', mul(block, ROW_BLOCK));
    const end = b.let('end', min(add(first, ROW_BLOCK), int(m)));
    forTiles(b, n, s.tokens, (token, tokens) => {
      for (let t = 0; t < tokens; t++) way.prepare(product, add(token, t), t * rowStride(k));
      const to = b.let('to', mul(token, rowStride(m)));
      if (partial === undefined || tokens === 1) {
        b.for('row', first, end, 1, (row) => b.store(out, add(to, row), writeDot(product, row)));
        return;
      }
      writeDots(product, { first, end }, tokens, partial, (row, t, dot) => {
        b.store(out, add(add(to, row), t * rowStride(m)), dot);
      });
    });
  });
  return b.build();
}

/**
 * Tiles of several tokens save widening, which is most of the work with f16; bf16 and f32 were measured to gain
 * 10 % from them at 16 tokens and to lose more at 4.
 */
function defaultSchedule({ elem }: MatmulShape, { vectorBytes, vectorRegisters }: Machine): MatmulSchedule {
  const lanes = Math.max(4, vectorBytes / 4);
  if (vectorBytes === 4) return { lanes, accumulators: 8, rows: 1, tokens: 1, prefetchBytes: 0 };
  // V8 loads all operands of an iteration before it computes: there must be room for them too.
  const few = vectorBytes === 16 && vectorRegisters === 16;
  const accumulators = vectorRegisters / (vectorBytes === 16 ? 4 : 2);
  const tile = elem === 'f16' ? { rows: 2, tokens: few ? 2 : 4 } : { rows: 1, tokens: 1 };
  return { lanes, accumulators, ...tile, prefetchBytes: 0 };
}

function schedules(shape: MatmulShape, machine: Machine): readonly MatmulSchedule[] {
  const base = defaultSchedule(shape, machine);
  if (machine.vectorBytes === 4) return [base];
  const streams = [0, 1024, 4096].flatMap((prefetchBytes) =>
    [2, 4, 8].map((accumulators) => ({ ...base, prefetchBytes, accumulators })),
  );
  const tiles = [1, 2, 3].flatMap((rows) => [2, 3, 4].map((tokens) => ({ ...base, rows, tokens })));
  return defaultFirst(base, [...streams, ...tiles]);
}

/**
 * Rows of floats by f32 activations: the output head, and layers of models in floats. A token alone takes one row
 * at a time, as one stream, which processors read up to twice as fast as several. Padding of m is not written.
 */
export const matmul: Kernel<MatmulShape, MatmulSchedule> = {
  op: 'matmul',
  family: 'default',
  defaultSchedule,
  schedules,
  build,
};

/** Pairs of one iteration of the thread loop of `matmul.rows`. */
const PAIR_BLOCK = 32;

export type MatmulRowsShape = { readonly k: number; readonly elem: 'bf16' | 'f16' | 'f32' };

function buildRows(name: string, { k, elem }: MatmulRowsShape, s: MatmulSchedule): LoopFunction {
  const b = new FunctionBuilder(name);
  const way = WAYS[elem];
  const x = b.buffer('x', 'f32', 'read');
  const table = b.buffer('table', elem, 'read');
  const pairs = b.buffer('pairs', 'i32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const inputs = b.local('inputs', 'f32', rowStride(k));
  const product: Product = { b, shape: { m: 1, k, elem }, s, x, table, inputs };
  const n = b.scalar('n');
  b.thread('block', div(add(n, PAIR_BLOCK - 1), PAIR_BLOCK), (block) => {
    const first = b.let('first', mul(block, PAIR_BLOCK));
    const prepared = b.var('prepared', int(-1));
    b.for('pair', first, b.let('end', min(add(first, PAIR_BLOCK), n)), 1, (pair) => {
      const at = b.let('pairAt', mul(pair, 2));
      const token = b.let('token', b.load(pairs, at));
      b.if(compare('ne', token, prepared), () => {
        way.prepare(product, token, 0);
        b.set(prepared, token);
      });
      b.store(out, pair, writeDot(product, b.let('row', b.load(pairs, add(at, 1)))));
    });
  });
  return b.build();
}

/**
 * Single products of `matmul`, bit for bit: out[i] is that of row pairs[2 i] of x with row pairs[2 i + 1] of the
 * table. Pairs of the same row of x are best together.
 */
export const matmulRows: Kernel<MatmulRowsShape, MatmulSchedule> = {
  op: 'matmul.rows',
  family: 'default',
  defaultSchedule: ({ k, elem }, machine) => defaultSchedule({ m: 1, k, elem }, machine),
  schedules: ({ k, elem }, machine) => schedules({ m: 1, k, elem }, machine),
  build: buildRows,
};
