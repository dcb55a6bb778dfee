import type { BufferRef, FunctionBuilder } from '../loops/builder.ts';
import {
  add,
  and,
  cast,
  compare,
  concat,
  div,
  float,
  int,
  max,
  min,
  mul,
  reduce,
  shift,
  shuffle,
  sub,
  unary,
} from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { type CacheShape, KEY_BLOCK, keyBlockStart, SMALLEST_PEAK, scaleStart, valueStart } from './cache.ts';
import { fixedKernel } from './fixed.ts';
import { forPieces, rowStart, threadPairs } from './lanes.ts';

export type RopeShape = CacheShape & { readonly style: 'half' | 'interleaved' };

interface Vector {
  readonly buffer: BufferRef;
  /** Index of the first element. */
  readonly at: Expr;
}

/**
 * Turns pair i of a head by angle i: (a, b) -> (a cos - b sin, b cos + a sin). `angles` holds the cosines of
 * headDim/2 angles, then their sines.
 */
function rotate(b: FunctionBuilder, { headDim, style }: RopeShape, x: Vector, angles: Vector, out: Vector) {
  const half = headDim / 2;
  // Pairs of neighbours are pulled apart and put together again within one small vector.
  forPieces(b, half, style === 'half' ? 16 : 4, (i, lanes) => {
    const part = (v: Vector, offset: Expr) => b.load(v.buffer, add(v.at, offset), lanes);
    const cos = b.let('cos', part(angles, i));
    const sin = b.let('sin', part(angles, add(i, half)));
    const turn = (first: Expr, second: Expr) => [
      sub(mul(first, cos), mul(second, sin)),
      add(mul(second, cos), mul(first, sin)),
    ];
    if (style === 'half') {
      const pair = turn(b.let('first', part(x, i)), b.let('second', part(x, add(i, half))));
      b.store(out.buffer, add(out.at, i), pair[0]!);
      b.store(out.buffer, add(out.at, add(i, half)), pair[1]!);
    } else {
      const indices = Array.from({ length: lanes }, (_, j) => j);
      const pairs = b.let('pairs', b.load(x.buffer, add(x.at, mul(i, 2)), 2 * lanes));
      const even = shuffle(
        pairs,
        indices.map((j) => 2 * j),
      );
      const odd = shuffle(
        pairs,
        indices.map((j) => 2 * j + 1),
      );
      const turned = concat(turn(b.let('even', even), b.let('odd', odd)));
      const together = shuffle(
        turned,
        indices.flatMap((j) => [j, lanes + j]),
      );
      b.store(out.buffer, add(out.at, mul(i, 2)), together);
    }
  });
}

interface Quantized {
  /** Where the scale goes, and each code. */
  readonly scales: BufferRef;
  readonly scale: Expr;
  readonly codes: BufferRef;
  place(element: Expr): Expr;
}

/** Stores a vector of `headDim` elements as int8: x / scale, nearest, scale = largest magnitude / 127. */
function storeQuantized(b: FunctionBuilder, x: BufferRef, headDim: number, to: Quantized): void {
  const peak = b.var('peak', float(SMALLEST_PEAK));
  forPieces(b, headDim, 16, (i, lanes) => {
    const size = unary('abs', b.load(x, i, lanes));
    b.set(peak, max(peak, lanes === 1 ? size : reduce('max', size)));
  });
  b.store(to.scales, to.scale, mul(peak, float(Math.fround(1 / 127))));
  const factor = b.let('factor', div(float(127), peak));
  b.for('element', 0, headDim, 1, (element) => {
    const scaled = unary('nearest', mul(b.load(x, element), factor));
    // The constant first: NaN becomes -127 here, where a cast of it would differ between targets.
    const code = cast(min(max(float(-127), scaled), float(127)), 'i32');
    b.store(to.codes, to.place(element), cast(code, 'i8'));
  });
}

/** Rotates the heads of q and k and appends keys and values to the cache, at positions pos .. pos + n. */
export const ropeStore = fixedKernel<RopeShape>('rope.store', (b, shape) => {
  const { heads, kvHeads, headDim, cacheElem } = shape;
  const qkv = b.buffer('qkv', 'f32', 'read');
  const table = b.buffer('table', 'f32', 'read');
  const qOut = b.buffer('qOut', 'f32', 'write');
  const integers = cacheElem === 'i8';
  const keys = b.buffer('keys', cacheElem, 'write');
  const keyScales = integers ? b.buffer('keyScales', 'f32', 'write') : undefined;
  const values = b.buffer('values', cacheElem, 'write');
  const valueScales = integers ? b.buffer('valueScales', 'f32', 'write') : undefined;
  const n = b.scalar('n');
  const pos = b.scalar('pos');
  const turned = b.local('turned', 'f32', headDim);
  threadPairs(b, n, heads + kvHeads, (token, head) => {
    const row = rowStart(b, token, (heads + 2 * kvHeads) * headDim);
    const position = b.let('position', add(pos, token));
    const x = { buffer: qkv, at: b.let('at', add(row, mul(head, headDim))) };
    const angles = { buffer: table, at: b.let('angles', mul(position, headDim)) };
    const storeQuery = () => {
      const to = b.let('to', add(rowStart(b, token, heads * headDim), mul(head, headDim)));
      rotate(b, shape, x, angles, { buffer: qOut, at: to });
    };
    const storeKeyAndValue = () => {
      rotate(b, shape, x, angles, { buffer: turned, at: int(0) });
      const kvHead = b.let('kvHead', sub(head, heads));
      const block = keyBlockStart(shape, kvHead, shift('right', position, 4));
      const from = b.let('from', add(x.at, kvHeads * headDim));
      if (keyScales !== undefined && valueScales !== undefined) {
        const scale = b.let('scale', scaleStart(shape, kvHead, position));
        // Pairs of elements of a key, and of positions of values, are multiplied together.
        const key = b.let('key', add(block, mul(and(position, KEY_BLOCK - 1), 2)));
        storeQuantized(b, turned, headDim, {
          scales: keyScales,
          scale,
          codes: keys,
          place: (d) => add(add(key, mul(shift('right', d, 1), 2 * KEY_BLOCK)), and(d, 1)),
        });
        forPieces(b, headDim, 16, (i, lanes) => b.store(turned, i, b.load(qkv, add(from, i), lanes)));
        const odd = b.let('odd', and(position, 1));
        const value = b.let('value', add(valueStart(shape, kvHead, sub(position, odd)), odd));
        storeQuantized(b, turned, headDim, {
          scales: valueScales,
          scale,
          codes: values,
          place: (d) => add(value, mul(d, 2)),
        });
        return;
      }
      const key = b.let('key', add(block, and(position, KEY_BLOCK - 1)));
      b.for('d', 0, headDim, 1, (d) => {
        b.store(keys, add(key, mul(d, KEY_BLOCK)), cast(b.load(turned, d), cacheElem));
      });
      const value = b.let('value', valueStart(shape, kvHead, position));
      forPieces(b, headDim, 16, (i, lanes) => {
        b.store(values, add(value, i), cast(b.load(qkv, add(from, i), lanes), cacheElem));
      });
    };
    b.if(compare('lt', head, int(heads)), storeQuery, storeKeyAndValue);
  });
});
