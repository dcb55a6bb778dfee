/** The order in which products of weights in groups are added, which gives every kernel the same bits. */
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, cast, float, int, mul, repeat, shift, sub } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';
import { sumBlocks } from './blocks.ts';
import { sumRows } from './rows.ts';
import {
  type GroupParams,
  type GroupShape,
  groupsOf,
  joinPlanes,
  laneReader,
  type PartDots,
  type Place,
  partStride,
  partsOf,
  type Totals,
} from './shape.ts';

/** Whether dots of so many columns, with what lookups add, are exact as f32, and so are halves of twice of them. */
const exactInFloats = ({ bits, to }: GroupShape, width: number) =>
  to !== 'int16' && 512 * 2 ** bits * width <= 2 ** 24;

/**
 * unit * dot - excess - zero * sum, exactly, as `dot` times a `factor`. Where zero is half way between two codes, or
 * dots count more than 1, that are floats, if these can hold it, or twice of it, an integer.
 */
function subtractZero(
  shape: GroupShape,
  unit: number,
  width: number,
  dot: Expr,
  excess: Expr | undefined,
  sum: Expr,
  zeros: Expr | undefined,
) {
  const { lanes } = dot.type;
  const counted = (times: number) => shift('left', dot, Math.log2(times * unit));
  if (zeros !== undefined) {
    const found = excess === undefined ? counted(1) : sub(counted(1), repeat(excess, lanes));
    return { dot: sub(found, mul(zeros, repeat(sum, lanes))), factor: 1 };
  }
  const parts = Number.isInteger(shape.zero) ? 1 : 2;
  const ofZero = mul(sum, shape.zero * parts);
  const less = excess === undefined ? ofZero : add(ofZero, mul(excess, parts));
  if (parts * unit > 1 && exactInFloats(shape, width)) {
    const inUnits = mul(cast(less, 'f32'), 1 / (parts * unit));
    return { dot: sub(cast(dot, 'f32'), repeat(inUnits, lanes)), factor: unit };
  }
  const whole = counted(parts);
  const isNothing = less.kind === 'const' && less.value === 0;
  return { dot: isNothing ? whole : sub(whole, repeat(less, lanes)), factor: 1 / parts };
}

/**
 * Adds up all groups of a place, in the order that gives every kernel the same bits: in a group, the products of
 * its parts (activation groups) one after the other, then times the weights' scale to the total.
 */
export function sumGroups(
  b: FunctionBuilder,
  p: GroupParams,
  shape: GroupShape,
  place: Place,
  totals: Totals,
  partDots: PartDots,
): void {
  if (p.blocks !== undefined) {
    sumBlocks(b, p, p.blocks, place, totals, partDots);
    return;
  }
  if (p.wholeRows === true) {
    sumRows(b, p, shape, place, totals, partDots);
    return;
  }
  const { k, group, activationGroup } = shape;
  const tokens = Array.from({ length: place.tokens }, (_, t) => t);
  const perGroup = Math.ceil(Math.min(group, k) / activationGroup);
  const whole = group < k ? Math.floor(k / group) : 0;
  const left = partsOf(shape) - whole * perGroup;
  const lastWidth = Math.min(activationGroup, rowStride(k) - (partsOf(shape) - 1) * activationGroup);
  const firstPart = b.let('firstPart', mul(place.token, partStride(shape)));
  const lanes = laneReader(b, place, groupsOf(shape));

  /** The part's product of every token: (dot - zero * sum) * scale; and for float zeros, sum * scale. */
  const part = (index: Expr, width: number, zeros: Expr | undefined) => {
    const dots = partDots(b.let('column', mul(index, activationGroup)), width).map(joinPlanes);
    const at = b.let('part', add(firstPart, index));
    return tokens.map((t) => {
      const from = add(at, t * partStride(shape));
      const sum = b.let('sum', b.load(p.sum, from));
      const scale = b.let('scale', b.load(p.scale, from));
      const excess = p.excess?.(width, from);
      const { dot, factor } = subtractZero(shape, p.unit ?? 1, width, dots[t]!, excess, sum, zeros);
      const scaled = factor === 1 ? scale : mul(scale, factor);
      const product = mul(cast(dot, 'f32'), repeat(scaled, place.rows));
      return {
        product: b.let('product', product),
        offset: shape.zeros.startsWith('f') ? b.let('offset', mul(cast(sum, 'f32'), scale)) : undefined,
      };
    });
  };

  const oneGroup = (index: Expr, wholeParts: number, lastPart: number) => {
    const integers = shape.zeros === 'u8' ? b.let('zero', cast(lanes(p.zeros!, index), 'i32')) : undefined;
    const start = mul(index, perGroup);
    const single = wholeParts + (lastPart > 0 ? 1 : 0) === 1;
    let sums: readonly { readonly product: Expr; readonly offset: Expr | undefined }[];
    if (single) {
      sums = part(b.let('index', start), wholeParts === 1 ? activationGroup : lastPart, integers);
    } else {
      const held = tokens.map(() => ({
        product: b.var('products', float(0, place.rows)),
        offset: shape.zeros.startsWith('f') ? b.var('offsets', float(0)) : undefined,
      }));
      const more = (index: Expr, width: number) => {
        for (const [t, { product, offset }] of part(index, width, integers).entries()) {
          const { product: to, offset: offsetTo } = held[t]!;
          b.set(to, add(to, product));
          if (offsetTo !== undefined) b.set(offsetTo, add(offsetTo, offset!));
        }
      };
      const first = b.let('first', start);
      if (wholeParts > 0) {
        b.for('inGroup', 0, wholeParts, 1, (i) => more(b.let('index', add(first, i)), activationGroup));
      }
      if (lastPart > 0) more(b.let('index', add(first, wholeParts)), lastPart);
      sums = held;
    }
    // Only now: halves that stay in registers across a loop, compilers take apart lane by lane.
    const floats = (name: string, buffer: BufferRef) => b.let(name, cast(lanes(buffer, index), 'f32'));
    const weightScale = floats('weightScale', p.weightScale);
    const minima = shape.zeros.startsWith('f') ? floats('minimum', p.zeros!) : undefined;
    for (const [t, { product, offset }] of sums.entries()) {
      const weighted = add(totals.get(t), mul(product, weightScale));
      totals.set(
        t,
        minima === undefined ? weighted : sub(weighted, mul(repeat(offset!, place.rows), minima)),
      );
    }
  };

  if (whole > 0) b.for('group', 0, whole, 1, (g) => oneGroup(g, perGroup, 0));
  if (left > 0) {
    const isWhole = lastWidth === activationGroup;
    oneGroup(int(whole), isWhole ? left : left - 1, isWhole ? 0 : lastWidth);
  }
}
