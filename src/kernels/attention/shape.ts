/** What the kernels of attention have in common: shapes, schedules, the memory of a chunk. */
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, div, float } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import type { Machine } from '../../loops/machine.ts';
import { type CacheShape, valueStride } from '../cache.ts';
import { LANES } from '../lanes.ts';
import { type Arithmetic, arithmeticOf } from './arithmetic.ts';

export type AttentionShape = CacheShape & {
  /** Positions that a token sees, its own among them; all if absent. */
  readonly window?: number;
};

export type AttentionSchedule = {
  /** Tokens that share what is loaded of the cache. */
  readonly tokens: number;
  /** Rows, which are heads of tokens, in registers at a time. */
  readonly rows: number;
  /** Blocks of 16 keys in registers at a time. */
  readonly keyBlocks: number;
  /** Vectors of 16 value elements in registers at a time. */
  readonly valueTiles: number;
  /** Positions whose values stay near while all rows add them up. */
  readonly positions: number;
};

/**
 * Positions that are softmaxed by themselves before they are merged into what came before. Part of the meaning of
 * the kernel: chunks begin at multiples of it, whatever the tokens of a call are.
 */
export const CHUNK = 256;

/** Scores of positions that a token must not see, and the largest score before there is any. */
export const NOTHING = Math.fround(-1e30);

/** What an int8 cache has besides. */
export interface Scales {
  /** Of keys and values, by position. */
  readonly keys: BufferRef;
  readonly values: BufferRef;
  /** [rows]: of queries, with 1 / sqrt(headDim). */
  readonly query: BufferRef;
}

/** What a job works on. Row r is head r % group of token r / group. */
export interface Attention {
  readonly b: FunctionBuilder;
  readonly shape: AttentionShape;
  readonly s: AttentionSchedule;
  /** There is one token, whose rows are the group. */
  readonly one: boolean;
  readonly arithmetic: Arithmetic;
  readonly scales: Scales | undefined;
  /** Heads that share a key/value head: rows of a token. */
  readonly group: number;
  readonly keys: BufferRef;
  readonly values: BufferRef;
  /** [rows][valueStride]: q / sqrt(headDim), or integers. */
  readonly query: BufferRef;
  /** [rows][CHUNK]: scores, then their exponentials. */
  readonly scores: BufferRef;
  /** [rows][CHUNK]: what values are multiplied by: the exponentials themselves, or integers. */
  readonly weights: BufferRef;
  /** [rows][valueStride]: the chunk's weighted values. */
  readonly partial: BufferRef;
}

/** The rows of a job and the chunk they are at. */
export interface Visit {
  readonly kvHead: Expr;
  readonly rows: Expr;
  /** First position of the chunk. */
  readonly chunk: Expr;
  /** How many positions of the chunk the first token sees, were it infinite; each further token sees one more. */
  readonly ahead: Expr;
  /** Of the last token: 1 to CHUNK. */
  readonly visible: Expr;
}

/** Positions of the chunk that a row sees; below 1, or more than the chunk has, if it sees none or all. */
export function seenBy({ group, one }: Attention, visit: Visit, row: Expr): Expr {
  if (one) return visit.ahead;
  return add(visit.ahead, group === 1 ? row : div(row, group));
}

/** Declares the buffers of a kernel that reads the cache, and its memory for the rows of a job. */
export function declareAttention(
  b: FunctionBuilder,
  shape: AttentionShape,
  s: AttentionSchedule,
  tokens: 'one' | 'many',
): { readonly q: BufferRef; readonly attention: Attention } {
  const { heads, kvHeads, cacheElem } = shape;
  const stride = valueStride(shape);
  const integers = cacheElem === 'i8';
  const group = heads / kvHeads;
  const rows = s.tokens * group;
  const q = b.buffer('q', 'f32', 'read');
  const keys = b.buffer('keys', cacheElem, 'read');
  const keyScales = integers ? b.buffer('keyScales', 'f32', 'read') : undefined;
  const values = b.buffer('values', cacheElem, 'read');
  const valueScales = integers ? b.buffer('valueScales', 'f32', 'read') : undefined;
  const scores = b.local('scores', 'f32', rows * CHUNK);
  const attention = {
    b,
    shape,
    s,
    one: tokens === 'one',
    arithmetic: arithmeticOf(b, cacheElem),
    scales:
      keyScales === undefined || valueScales === undefined
        ? undefined
        : { keys: keyScales, values: valueScales, query: b.local('queryScale', 'f32', rows) },
    group,
    keys,
    values,
    query: b.local('query', integers ? 'i16' : 'f32', rows * stride),
    scores,
    weights: integers ? b.local('weights', 'i16', rows * CHUNK) : scores,
    partial: b.local('partial', integers ? 'i32' : 'f32', rows * stride),
  };
  return { q, attention };
}

/** Clears `count` vectors of LANES floats from `at`. */
export function clear(b: FunctionBuilder, buffer: BufferRef, at: Expr, count: number): void {
  b.for('i', 0, count * LANES, LANES, (i) => b.store(buffer, add(at, i), float(0, LANES)));
}

/** Vectors of 16 f32 that half of the registers hold. */
export function accumulatorsOf({ vectorBytes, vectorRegisters }: Machine): number {
  return Math.max(1, Math.floor((vectorRegisters / 2) * (vectorBytes / 64)));
}
