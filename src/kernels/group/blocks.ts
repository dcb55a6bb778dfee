/**
 * Sums of weights whose groups have scales of integers in units of their block's, as those of llama.cpp's K-quants are:
 * integers as far as they go, then floats once a block.
 */
import { range } from '../../common/math.ts';
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, and, cast, constant, mul, repeat, shift, sub, vector } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import {
  type BlockParams,
  type BlockShape,
  type GroupParams,
  laneReader,
  type PartDots,
  PLANE_SHIFT,
  type Place,
  planesOf,
  type Totals,
} from './shape.ts';

/** Integers of the rows, of group `first` + `more`: even with `first`, of u4 two are in a byte. */
function codeReader(
  b: FunctionBuilder,
  { k, group }: BlockShape,
  place: Place,
  form: 'u4' | 'u8' | 'i8',
  buffer: BufferRef,
): (first: Expr, more: number) => Expr {
  const perByte = form === 'u4' ? 2 : 1;
  const read = laneReader(b, place, k / group / perByte);
  return (first, more) => {
    const index = perByte === 1 ? add(first, more) : shift('right', first, 1);
    const codes = cast(read(buffer, index), 'i32');
    if (form !== 'u4') return codes;
    return more === 0 ? and(codes, 15) : shift('right', codes, 4);
  };
}

/**
 * Adds up all blocks of a place, in the order that gives every kernel the same bits: the planes of activations apart,
 *
 * ```
 * dot    = sum over groups of scaleCode * (sum of code * q)                      exact, for each plane
 * offset = sum over groups of (zeroCode, or scaleCode where there is none) * sum of q              exact
 * total += (((128 high + low) - zero * offset) * scale of q) * scale
 * total -= (offset * scale of q) * zeros                                         where there are zeroCodes
 * ```
 */
export function sumBlocks(
  b: FunctionBuilder,
  p: GroupParams,
  { shape, scaleCodes, zeroCodes }: BlockParams,
  place: Place,
  totals: Totals,
  groupDots: PartDots,
): void {
  const { k, group, block, zero } = shape;
  const { rows } = place;
  const tokens = range(place.tokens);
  const blocks = k / block;
  const perBlock = block / group;
  const together = shape.scaleCodes === 'u4' || shape.zeroCodes === 'u4' ? 2 : 1;
  const firstBlock = b.let('firstBlock', mul(place.token, rowStride(blocks)));
  const firstSum = b.let('firstSum', mul(place.token, rowStride(k / group)));
  const ofBlock = laneReader(b, place, blocks);
  const readScale = codeReader(b, shape, place, shape.scaleCodes, scaleCodes);
  const readZero =
    zeroCodes === undefined || shape.zeroCodes === 'none'
      ? undefined
      : codeReader(b, shape, place, shape.zeroCodes, zeroCodes);
  const hasOffset = readZero !== undefined || zero !== 0;
  const wide = constant(vector('i32', rows), 0);

  b.for('block', 0, blocks, 1, (index) => {
    const dots = tokens.map(() => range(planesOf(shape)).map(() => b.var('dots', wide)));
    const offsets = hasOffset ? tokens.map(() => b.var('offset', wide)) : [];
    b.for('inBlock', 0, perBlock, together, (inBlock) => {
      const first = b.let('first', add(mul(index, perBlock), inBlock));
      for (const more of range(together)) {
        const at = b.let('group', add(first, more));
        const found = groupDots(b.let('column', mul(at, group)), group);
        const scale = b.let('scaleCode', readScale(first, more));
        for (const [t, planes] of found.entries()) {
          for (const [plane, dot] of planes.entries()) {
            const sum = dots[t]![plane]!;
            b.set(sum, add(sum, mul(dot, scale)));
          }
        }
        if (!hasOffset) continue;
        const factor = readZero === undefined ? scale : b.let('zeroCode', readZero(first, more));
        for (const [t, offset] of offsets.entries()) {
          const sum = b.load(p.sum, add(add(firstSum, at), t * rowStride(k / group)));
          b.set(offset, add(offset, mul(factor, repeat(sum, rows))));
        }
      }
    });
    const floats = (name: string, buffer: BufferRef) => b.let(name, cast(ofBlock(buffer, index), 'f32'));
    const weightScale = floats('weightScale', p.weightScale);
    const minimum = readZero === undefined ? undefined : floats('minimum', p.zeros!);
    for (const t of tokens) {
      const at = add(add(firstBlock, index), t * rowStride(blocks));
      const scale = b.let('scale', repeat(b.load(p.scale, at), rows));
      const [high, low] = dots[t]!.map((dot) => cast(dot, 'f32'));
      const whole = low === undefined ? high! : add(mul(high!, 1 << PLANE_SHIFT), low);
      const offset = hasOffset ? b.let('offset', cast(offsets[t]!, 'f32')) : undefined;
      const value = zero === 0 ? whole : sub(whole, mul(offset!, zero));
      const weighted = add(totals.get(t), mul(mul(value, scale), weightScale));
      totals.set(t, minimum === undefined ? weighted : sub(weighted, mul(mul(offset!, scale), minimum)));
    }
  });
}
