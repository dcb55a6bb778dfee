/** The KV cache of a layer as kernels see it; the layouts are drawn in kernel.ts. */
import { alignUp } from '../common/math.ts';
import { add, mul } from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';

export type CacheShape = {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Positions there is room for. */
  readonly context: number;
  /** `i8`: with a scale for each position of a head. */
  readonly cacheElem: CacheElem;
};

export type CacheElem = 'f32' | 'f16' | 'i8';

/** The parts that the cache of a layer has, in this order. */
export type CachePart = 'keys' | 'keyScales' | 'values' | 'valueScales';

/** The smallest largest magnitude that int8 keys, values and their queries are scaled by. */
export const SMALLEST_PEAK = Math.fround(1e-5);

/** Positions whose keys lie together, transposed: lanes of a vector of scores. */
export const KEY_BLOCK = 16;

const keyBlocks = ({ context }: CacheShape) => Math.ceil(context / KEY_BLOCK);

/** Elements from one position's values to the next one's. */
export function valueStride({ headDim }: CacheShape): number {
  return alignUp(headDim, 16);
}

/** Index of the first key element of block `block` (of 16 positions); element d is `KEY_BLOCK` * d further. */
export function keyBlockStart(shape: CacheShape, kvHead: Expr, block: Expr): Expr {
  return mul(add(mul(kvHead, keyBlocks(shape)), block), shape.headDim * KEY_BLOCK);
}

/** Index of the first value element of a position. */
export function valueStart(shape: CacheShape, kvHead: Expr, position: Expr): Expr {
  return mul(add(mul(kvHead, keyBlocks(shape) * KEY_BLOCK), position), valueStride(shape));
}

/** Index of the scale of a position's keys or values. */
export function scaleStart(shape: CacheShape, kvHead: Expr, position: Expr): Expr {
  return add(mul(kvHead, keyBlocks(shape) * KEY_BLOCK), position);
}

const ELEM_BYTES = { f32: 4, f16: 2, i8: 1 };

/** Bytes of each part of a layer's cache. */
export function cacheParts(shape: Omit<CacheShape, 'heads'>): readonly (readonly [CachePart, number])[] {
  const { kvHeads, headDim, context, cacheElem } = shape;
  const positions = kvHeads * alignUp(context, KEY_BLOCK);
  const elem = ELEM_BYTES[cacheElem];
  const keys = ['keys', positions * headDim * elem] as const;
  const values = ['values', positions * alignUp(headDim, 16) * elem] as const;
  if (cacheElem !== 'i8') return [keys, values];
  return [keys, ['keyScales', positions * 4], values, ['valueScales', positions * 4]];
}
