/** What the ways to multiply by weights quantized in groups share: shape, schedule, parameters, the order of sums. */
import type { BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, and, cast, concat, constant, float, int, mul, repeat, shift, sub } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { rowStride } from '../kernel.ts';

export type GroupShape = {
  readonly m: number;
  readonly k: number;
  /** 1, 2, 3, 4 or 8 */
  readonly bits: number;
  /** Columns that share a scale of the weights, and of the activations; see `lowbit.matmul.group`. */
  readonly group: number;
  readonly activationGroup: number;
  /** The code that is 0, where `zeros` is `none`. */
  readonly zero: number;
  readonly zeros: 'none' | 'u8' | 'f16' | 'f32';
  readonly scales: 'f16' | 'f32';
  /** Activations; `int16` are two planes of i8, see `splitActivation`. */
  readonly to: 'int8' | 'int16';
  readonly residual: boolean;
  /** `one`: a matrix-vector product, good for n = 1 (right for any n); `many`: a matrix product. */
  readonly batch: 'one' | 'many';
  readonly encoding: string;
};

export type GroupSchedule = {
  /** What multiplies: `dot4` into i32, `dot2` into i16 that are widened in time, `madd` of i16, scalar code. */
  readonly multiply: 'dot4' | 'dot2' | 'madd' | 'scalar';
  /** Rows in registers at a time: 4, 8 or 16, in batch `many` also 32. */
  readonly rows: number;
  /** Tokens in registers at a time; 1 in batch `one`. */
  readonly tokens: number;
  /** Batch `many`: rows whose codes are unpacked at a time, a multiple of 16 and of `rows`. */
  readonly rowBlock: number;
  /** Batch `many`: up to how many tokens unpacking does not pay, */
  readonly few: number;
  /** and how many of those are in registers at a time. */
  readonly fewTokens: number;
  /** Columns of packed codes written out in the innermost loop, as far as a group has them. */
  readonly unroll: number;
  /** How far ahead packed weights are prefetched; 0: not at all. */
  readonly prefetchBytes: number;
  /** Packed codes are masked where they are in a byte, which saves shifts and takes an accumulator for each place. */
  readonly inPlace: boolean;
};

export interface GroupParams {
  readonly q: BufferRef;
  readonly scale: BufferRef;
  readonly sum: BufferRef;
  readonly weight: BufferRef;
  readonly weightScale: BufferRef;
  readonly residual: BufferRef | undefined;
  readonly zeros: BufferRef | undefined;
  /** What dots of a part of so many columns have added to what they are; default 0. */
  readonly excess?: (width: number) => number;
  /** Where dots are those of rounded tables: what half a unit of them is, for each part. See `lut/tables.ts`. */
  readonly tableScale?: BufferRef;
  /** How many units 1 of a dot is. */
  readonly tableUnit?: number;
  readonly out: BufferRef;
  readonly n: Expr;
}

export function groupParams(b: FunctionBuilder, { scales, zeros, residual }: GroupShape): GroupParams {
  return {
    q: b.buffer('q', 'i8', 'read'),
    scale: b.buffer('scale', 'f32', 'read'),
    sum: b.buffer('sum', 'i32', 'read'),
    weight: b.buffer('weight', 'u8', 'read'),
    weightScale: b.buffer('weightScale', scales, 'read'),
    residual: residual ? b.buffer('residual', 'f32', 'read') : undefined,
    zeros: zeros === 'none' ? undefined : b.buffer('zeros', zeros, 'read'),
    out: b.buffer('out', 'f32', 'write'),
    n: b.scalar('n'),
  };
}

/** Rows of a tile, and bytes of a column of it, in `code-tiles`. */
export const TILE = 16;
export const columnBytes = (bits: number) => 2 * bits;

/** Planes of i8 that activations are in. */
export const planesOf = ({ to }: Pick<GroupShape, 'to'>) => (to === 'int8' ? 1 : 2);

/** A plane's weight as a power of two: q = 128 * high + low, the high plane first. */
export const PLANE_SHIFT = 7;

/** Distance of a token's activations from the next one's. */
export const tokenStride = (shape: Pick<GroupShape, 'k' | 'to'>) => planesOf(shape) * rowStride(shape.k);

type Parts = Pick<GroupShape, 'k' | 'activationGroup'>;

const partsOf = ({ k, activationGroup }: Parts) => Math.ceil(k / activationGroup);
const groupsOf = ({ k, group }: GroupShape) => Math.ceil(k / group);

/** Distance of a token's scales, and of its sums, from the next one's. */
export const partStride = (shape: Parts) => rowStride(partsOf(shape));

/** Some rows of the weights by some tokens, and where they begin. */
export interface Place {
  /** Lanes: rows at a time. */
  readonly rows: number;
  readonly tokens: number;
  /** First token of the call that is meant. */
  readonly token: Expr;
  /** Where the rows are in `group-lanes`: of group 0. */
  readonly lane: Expr;
}

/** Index of a row in `group-lanes`, of group 0. */
export function laneOf(b: FunctionBuilder, shape: GroupShape, row: Expr): Expr {
  const tile = mul(shift('right', row, 4), groupsOf(shape) * TILE);
  return b.let('lane', add(tile, and(row, TILE - 1)));
}

/** What belongs to group `group` of the rows, which are some of a tile or whole tiles. */
function loadLanes(
  b: FunctionBuilder,
  shape: GroupShape,
  buffer: BufferRef,
  { rows, lane }: Place,
  group: Expr,
): Expr {
  const at = b.let('at', add(lane, mul(group, TILE)));
  if (rows <= TILE) return b.load(buffer, at, rows);
  const tiles = Array.from({ length: rows / TILE }, (_, i) => add(at, i * groupsOf(shape) * TILE));
  return concat(tiles.map((tile) => b.load(buffer, tile, TILE)));
}

/** Sums of a place's tokens, in registers or in memory. */
export interface Totals {
  get(token: number): Expr;
  set(token: number, value: Expr): void;
}

/** Exact dots of codes and activations over `width` columns from column `column`, for every token of the place. */
type PartDots = (column: Expr, width: number) => readonly Expr[];

/**
 * dot - excess - zero * sum, in integers, as `dot` times a `factor`: where zero is half way between two codes, twice of
 * it is an integer.
 */
function subtractZero({ zero }: GroupShape, dot: Expr, excess: number, sum: Expr, zeros: Expr | undefined) {
  const { lanes } = dot.type;
  if (zeros !== undefined) {
    return { dot: sub(excess === 0 ? dot : sub(dot, excess), mul(zeros, repeat(sum, lanes))), factor: 1 };
  }
  const factor = Number.isInteger(zero) ? 1 : 0.5;
  const whole = factor === 1 ? dot : shift('left', dot, 1);
  const less = add(mul(sum, zero / factor), excess / factor);
  return { dot: less.kind === 'const' && less.value === 0 ? whole : sub(whole, repeat(less, lanes)), factor };
}

/**
 * ((sum of code * q) - zero * sum) * scale from the sum of tables of +q and -q: of `bits` planes these are twice the
 * former, less (2^bits - 1) * sum. What does not depend on the row is one number of the part.
 */
function centerTables(
  { zero, bits }: GroupShape,
  dot: Expr,
  excess: number,
  half: Expr,
  part: { readonly sum: Expr; readonly scale: Expr },
  zeros: Expr | undefined,
): Expr {
  const { lanes } = dot.type;
  const middle = 2 ** bits - 1;
  const offset = (factor: number) => mul(mul(cast(part.sum, 'f32'), factor), part.scale);
  const scaled = mul(cast(dot, 'f32'), repeat(half, lanes));
  const less = mul(half, excess);
  if (zeros === undefined) return add(scaled, repeat(sub(offset(middle / 2 - zero), less), lanes));
  const twice = cast(sub(constant(zeros.type, middle), shift('left', zeros, 1)), 'f32');
  return add(sub(scaled, repeat(less, lanes)), mul(twice, repeat(offset(0.5), lanes)));
}

/** The float result of some rows of a token. */
export function storeResult(
  b: FunctionBuilder,
  { residual, out }: GroupParams,
  { m }: GroupShape,
  token: Expr,
  row: Expr,
  value: Expr,
): void {
  const at = b.let('to', add(mul(token, rowStride(m)), row));
  const { lanes } = value.type;
  b.store(out, at, residual === undefined ? value : add(b.load(residual, at, lanes), value));
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
  const { k, group, activationGroup } = shape;
  const tokens = Array.from({ length: place.tokens }, (_, t) => t);
  const perGroup = Math.ceil(Math.min(group, k) / activationGroup);
  const whole = group < k ? Math.floor(k / group) : 0;
  const left = partsOf(shape) - whole * perGroup;
  const lastWidth = Math.min(activationGroup, rowStride(k) - (partsOf(shape) - 1) * activationGroup);
  const firstPart = b.let('firstPart', mul(place.token, partStride(shape)));

  /** The part's product of every token: (dot - zero * sum) * scale; and for float zeros, sum * scale. */
  const part = (index: Expr, width: number, zeros: Expr | undefined) => {
    const dots = partDots(b.let('column', mul(index, activationGroup)), width);
    const at = b.let('part', add(firstPart, index));
    return tokens.map((t) => {
      const from = add(at, t * partStride(shape));
      const sum = b.let('sum', b.load(p.sum, from));
      const scale = b.let('scale', b.load(p.scale, from));
      const excess = p.excess?.(width) ?? 0;
      let product: Expr;
      if (p.tableScale === undefined) {
        const { dot, factor } = subtractZero(shape, dots[t]!, excess, sum, zeros);
        const scaled = factor === 1 ? scale : mul(scale, factor);
        product = mul(cast(dot, 'f32'), repeat(scaled, place.rows));
      } else {
        const unit = mul(b.load(p.tableScale, from), p.tableUnit ?? 1);
        const half = b.let('half', mul(unit, scale));
        product = centerTables(shape, dots[t]!, excess, half, { sum, scale }, zeros);
      }
      return {
        product: b.let('product', product),
        offset: shape.zeros.startsWith('f') ? b.let('offset', mul(cast(sum, 'f32'), scale)) : undefined,
      };
    });
  };

  const oneGroup = (index: Expr, wholeParts: number, lastPart: number) => {
    const integers =
      shape.zeros === 'u8'
        ? b.let('zero', cast(loadLanes(b, shape, p.zeros!, place, index), 'i32'))
        : undefined;
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
    const floats = (name: string, buffer: BufferRef) =>
      b.let(name, cast(loadLanes(b, shape, buffer, place, index), 'f32'));
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
