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
  readonly cacheElem: 'f32' | 'f16';
};

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
