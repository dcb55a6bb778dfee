/** rope.store and attention together: what one writes the other reads. */
import { describe, expect, it } from 'vitest';
import { widenHalves } from '../common/halves.ts';
import { alignUp } from '../common/math.ts';
import { PART_TOKENS, partsSize } from './attention/parts.ts';
import { CHUNK } from './attention/shape.ts';
import { attention } from './attention.ts';
import { attentionMerge, attentionParts } from './attention-parts.ts';
import { type CacheShape, cacheParts } from './cache.ts';
import { rowStride } from './kernel.ts';
import { type RopeShape, ropeStore } from './rope-store.ts';
import {
  cropRows,
  type Elements,
  padRows,
  randomFloats,
  runDefault,
  runEverywhere,
  runSchedules,
} from './testing.ts';

const SHAPES: readonly RopeShape[] = [
  { heads: 4, kvHeads: 2, headDim: 32, context: 40, cacheElem: 'f32', style: 'half' },
  { heads: 3, kvHeads: 1, headDim: 100, context: 37, cacheElem: 'f32', style: 'half' },
  { heads: 2, kvHeads: 2, headDim: 64, context: 48, cacheElem: 'f16', style: 'interleaved' },
  { heads: 5, kvHeads: 1, headDim: 128, context: 20, cacheElem: 'f16', style: 'half' },
  { heads: 2, kvHeads: 1, headDim: 6, context: 33, cacheElem: 'f32', style: 'interleaved' },
  { heads: 4, kvHeads: 2, headDim: 64, context: 35, cacheElem: 'i8', style: 'half' },
  { heads: 3, kvHeads: 3, headDim: 100, context: 40, cacheElem: 'i8', style: 'interleaved' },
];

/** Angles of positions, as tables of cosines and sines; any values serve the arithmetic. */
function ropeTable({ headDim, context }: RopeShape): Float32Array {
  const half = headDim / 2;
  return Float32Array.from({ length: context * headDim }, (_, i) => {
    const angle = Math.floor(i / headDim) * 100 ** (-(i % half) / half);
    return i % headDim < half ? Math.cos(angle) : Math.sin(angle);
  });
}

/** A cache that nothing was stored in: all NaN, and codes of -1. */
function emptyCache(shape: CacheShape): Elements[] {
  const ones = (bytes: number) => new Uint8Array(bytes).fill(0xff).buffer;
  return cacheParts(shape).map(([part, bytes]) => {
    if (/Scales/.test(part) || shape.cacheElem === 'f32') return new Float32Array(ones(bytes));
    return shape.cacheElem === 'f16' ? new Uint16Array(ones(bytes)) : new Int8Array(ones(bytes));
  });
}

const emptyRows = (n: number, width: number) => new Float32Array(n * rowStride(width));

interface Stored {
  readonly q: Elements;
  /** In the order of `cacheParts`. */
  readonly cache: readonly Elements[];
}

function store(
  shape: RopeShape,
  qkv: Float32Array,
  from: number,
  before: Stored | undefined,
  run = runDefault,
): Stored {
  const width = (shape.heads + 2 * shape.kvHeads) * shape.headDim;
  const n = qkv.length / width;
  const cache = before?.cache ?? emptyCache(shape);
  const q = emptyRows(n, shape.heads * shape.headDim);
  const out = run(ropeStore, shape, [padRows(qkv, width), ropeTable(shape), q, ...cache], [n, from]);
  return { q: out[2]!, cache: out.slice(3) };
}

const cacheShape = ({ heads, kvHeads, headDim, context, cacheElem }: RopeShape): CacheShape => ({
  heads,
  kvHeads,
  headDim,
  context,
  cacheElem,
});

/** x [n, heads * headDim] rotated, in float64. */
function rotated(x: readonly number[], shape: RopeShape, from: number, heads: number): number[] {
  const { headDim, style } = shape;
  const half = headDim / 2;
  const table = ropeTable(shape);
  const y = [...x];
  for (let start = 0; start < x.length; start += headDim) {
    const angles = (from + Math.floor(start / (heads * headDim))) * headDim;
    for (let i = 0; i < half; i++) {
      const [a, b] = style === 'half' ? [start + i, start + half + i] : [start + 2 * i, start + 2 * i + 1];
      const [cos, sin] = [table[angles + i]!, table[angles + half + i]!];
      y[a] = x[a]! * cos - x[b]! * sin;
      y[b] = x[b]! * cos + x[a]! * sin;
    }
  }
  return y;
}

/** The columns of qkv that are q, k or v. */
function columns(qkv: Float32Array, shape: RopeShape, first: number, heads: number): number[] {
  const width = (shape.heads + 2 * shape.kvHeads) * shape.headDim;
  const part: number[] = [];
  for (let row = 0; row < qkv.length; row += width) {
    part.push(...qkv.subarray(row + first * shape.headDim, row + (first + heads) * shape.headDim));
  }
  return part;
}

/** Softmax attention of all positions over those before, in float64, from what the cache holds. */
function attend(
  q: readonly number[],
  keys: readonly number[],
  values: readonly number[],
  shape: CacheShape,
  window = Number.POSITIVE_INFINITY,
) {
  const { heads, kvHeads, headDim } = shape;
  const out: number[] = [];
  for (let t = 0; t < q.length / (heads * headDim); t++) {
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor((head * kvHeads) / heads);
      const at = (position: number) => (position * kvHeads + kvHead) * headDim;
      const scores = Array.from({ length: t + 1 }, (_, position) => {
        let dot = 0;
        for (let d = 0; d < headDim; d++)
          dot += q[(t * heads + head) * headDim + d]! * keys[at(position) + d]!;
        return position <= t - window ? Number.NEGATIVE_INFINITY : dot / Math.sqrt(headDim);
      });
      const peak = Math.max(...scores);
      const weights = scores.map((s) => Math.exp(s - peak));
      const total = weights.reduce((sum, w) => sum + w, 0);
      for (let d = 0; d < headDim; d++) {
        out.push(weights.reduce((sum, w, position) => sum + w * values[at(position) + d]!, 0) / total);
      }
    }
  }
  return out;
}

const floatsOf = (elements: Elements) =>
  elements instanceof Uint16Array ? widenHalves(elements, 'f16') : elements;

/** What the cache holds of the first n positions: keys and values, [n, kvHeads * headDim]. */
function readCache({ cache }: Stored, shape: CacheShape, n: number): [number[], number[]] {
  const { kvHeads, headDim, context, cacheElem } = shape;
  const pairs = cacheElem === 'i8';
  const [k, v] = (pairs ? [cache[0]!, cache[2]!] : cache).map(floatsOf) as [Float32Array, Float32Array];
  const blocks = Math.ceil(context / 16);
  const scale = (part: number, at: number) => (pairs ? cache[part]![at]! : 1);
  const read: [number[], number[]] = [[], []];
  for (let position = 0; position < n; position++) {
    for (let head = 0; head < kvHeads; head++) {
      const at = head * blocks * 16 + position;
      for (let d = 0; d < headDim; d++) {
        const block = (head * blocks + Math.floor(position / 16)) * headDim * 16;
        const key = pairs ? (d - (d % 2)) * 16 + (position % 16) * 2 + (d % 2) : d * 16 + (position % 16);
        read[0].push(k[block + key]! * scale(1, at));
        const value = pairs
          ? (at - (at % 2)) * alignUp(headDim, 16) + 2 * d + (at % 2)
          : at * alignUp(headDim, 16) + d;
        read[1].push(v[value]! * scale(3, at));
      }
    }
  }
  return read;
}

const randomQkv = (shape: RopeShape, n: number, seed: number) =>
  randomFloats(seed, n * (shape.heads + 2 * shape.kvHeads) * shape.headDim).map((x) => x * 3);

const label = (shape: RopeShape) => ({
  shape,
  name: `${shape.heads}/${shape.kvHeads} x ${shape.headDim} ${shape.cacheElem}`,
});

describe('rope.store', () => {
  it.each(SHAPES.map(label))('rotates and stores $name', ({ shape }) => {
    const { heads, kvHeads, headDim, cacheElem } = shape;
    const n = 18;
    const qkv = randomQkv(shape, n, 1);
    const width = qkv.length / n;
    // In two calls, so that the second one starts within a block of keys.
    const first = store(shape, qkv.subarray(0, 5 * width), 0, undefined, runEverywhere);
    const second = store(shape, qkv.subarray(5 * width), 5, first, runEverywhere);
    const q = [...cropRows(first.q, heads * headDim), ...cropRows(second.q, heads * headDim)];
    rotated(columns(qkv, shape, 0, heads), shape, 0, heads).forEach((x, i) => {
      expect(Math.abs(q[i]! - x)).toBeLessThan(1e-6);
    });
    const [keys, values] = readCache(second, shape, n);
    // Elements are below 6: halves have 11 bits, int8 half of a 127th.
    const tolerance = { f32: 1e-6, f16: 3e-3, i8: 3 / 127 }[cacheElem];
    rotated(columns(qkv, shape, heads, kvHeads), shape, 0, kvHeads).forEach((x, i) => {
      expect(Math.abs(keys[i]! - x)).toBeLessThan(tolerance);
    });
    columns(qkv, shape, heads + kvHeads, kvHeads).forEach((x, i) => {
      expect(Math.abs(values[i]! - x)).toBeLessThan(cacheElem === 'f32' ? Number.MIN_VALUE : tolerance);
    });
  });
});

function attentionOf(shape: CacheShape, { q, cache }: Stored, from: number, run = runDefault): Elements {
  const n = q.length / rowStride(shape.heads * shape.headDim);
  const out = emptyRows(n, shape.heads * shape.headDim);
  const empty = new Float32Array(PART_TOKENS * partsSize(shape)).fill(Number.NaN);
  const computed = run(attention, shape, [q, ...cache, empty, out], [n, from, 0]);
  expect(computed.at(-2)).toEqual(empty);
  const result = computed.at(-1)!;
  if (n <= PART_TOKENS) {
    const apart = run(attention, shape, [q, ...cache, empty, out], [n, from, 1]).at(-2)!;
    expect(run(attentionMerge, shape, [apart, out], [n, from]).at(-1)).toEqual(result);
  }
  if (n === 1) {
    const parts = run(attentionParts, shape, [q, ...cache, empty], [from]).at(-1)!;
    expect(run(attentionMerge, shape, [parts, out], [1, from]).at(-1)).toEqual(result);
  }
  return result;
}

/** Scores here are sums of up to 128 products of up to 9; values are up to 3. */
const TOLERANCE = 1e-5;

/** With int8, scores and weights are rounded to 15 bits. */
const toleranceOf = ({ cacheElem }: CacheShape) => (cacheElem === 'i8' ? 5e-3 : TOLERANCE);

describe('attention', () => {
  it.each(SHAPES.map(label))(
    'is close to float64 for $name, with NaN wherever nothing was stored',
    ({ shape }) => {
      const width = shape.heads * shape.headDim;
      for (const n of [1, 2, 17]) {
        const stored = store(shape, randomQkv(shape, n, n), 0, undefined);
        const out = cropRows(attentionOf(cacheShape(shape), stored, 0), width);
        const expected = attend(cropRows(stored.q, width), ...readCache(stored, shape, n), shape);
        expected.forEach((x, i) => {
          expect(Math.abs(out[i]! - x)).toBeLessThan(toleranceOf(shape));
        });
      }
    },
  );

  it.each(['f32', 'i8'] as const)('gives a token the same bits alone and in a batch, %s', (cacheElem) => {
    // Beyond the first chunk too.
    const shape: RopeShape = {
      heads: 2,
      kvHeads: 1,
      headDim: 4,
      context: CHUNK + 40,
      cacheElem,
      style: 'half',
    };
    const n = CHUNK + 37;
    const qkv = randomQkv(shape, n, 5);
    const all = store(shape, qkv, 0, undefined);
    const width = shape.heads * shape.headDim;
    const stride = rowStride(width);
    const together = attentionOf(cacheShape(shape), all, 0);
    const expected = attend(cropRows(all.q, width), ...readCache(all, shape, n), shape);
    cropRows(together, width).forEach((x, i) => {
      expect(Math.abs(x - expected[i]!)).toBeLessThan(toleranceOf(shape));
    });
    let cache: Stored | undefined;
    let from = 0;
    for (const count of [200, CHUNK - 200 - 3, 2, 1, 1, 5, n - CHUNK - 6]) {
      const some = qkv.subarray(from * 16, (from + count) * 16);
      cache = store(shape, some, from, cache);
      const apart = attentionOf(cacheShape(shape), cache, from);
      const rows = together.subarray(from * stride, (from + count) * stride) as Float32Array;
      expect(cropRows(apart, width)).toEqual(cropRows(rows, width));
      from += count;
    }
    expect(from).toBe(n);
  });

  it.each([
    [1, 'f32'],
    [7, 'f16'],
    [CHUNK + 3, 'f32'],
    [19, 'i8'],
  ] as const)(
    'sees a window of %i positions, with the same bits alone and in a batch, %s',
    (window, cacheElem) => {
      const context = 2 * CHUNK + 60;
      const shape: RopeShape = { heads: 2, kvHeads: 1, headDim: 4, context, cacheElem, style: 'half' };
      const n = 2 * CHUNK + 37;
      const all = store(shape, randomQkv(shape, n, 5), 0, undefined);
      const width = shape.heads * shape.headDim;
      const stride = rowStride(width);
      const windowed = { ...cacheShape(shape), window };
      const together = attentionOf(windowed, all, 0) as Float32Array;
      const expected = attend(cropRows(all.q, width), ...readCache(all, shape, n), shape, window);
      cropRows(together, width).forEach((x, i) => {
        expect(Math.abs(x - expected[i]!)).toBeLessThan(toleranceOf(shape));
      });
      for (const [from, count] of [
        [0, 1],
        [CHUNK - 2, 5],
        [CHUNK + 2, 1],
        [2 * CHUNK - 9, PART_TOKENS],
        [n - 1, 1],
        [n - 40, 40],
      ] as const) {
        const range = [from * stride, (from + count) * stride] as const;
        const apart = attentionOf(
          windowed,
          { q: (all.q as Float32Array).slice(...range), cache: all.cache },
          from,
        );
        expect(cropRows(apart, width)).toEqual(cropRows(together.subarray(...range), width));
      }
    },
  );

  it('is the same in every schedule', () => {
    const windowed = { ...cacheShape(SHAPES[0]!), window: 5 };
    const { q, cache } = store(SHAPES[0]!, randomQkv(SHAPES[0]!, 19, 9), 0, undefined);
    const out = emptyRows(19, windowed.heads * windowed.headDim);
    runSchedules(attention, windowed, [q, ...cache, new Float32Array(1), out], [19, 0, 0]);
    for (const shape of [SHAPES[1]!, { ...SHAPES[0]!, kvHeads: 1 }, SHAPES[5]!]) {
      const { q, cache } = store(shape, randomQkv(shape, 19, 9), 0, undefined);
      const out = emptyRows(19, shape.heads * shape.headDim);
      const parts = new Float32Array(PART_TOKENS * partsSize(shape));
      runSchedules(attention, cacheShape(shape), [q, ...cache, parts, out], [19, 0, 0]);
      const few = (q as Float32Array).subarray(0, 9 * rowStride(shape.heads * shape.headDim));
      runSchedules(attention, cacheShape(shape), [few, ...cache, parts, out], [9, 10, 1]);
    }
    for (const shape of [SHAPES[1]!, SHAPES[5]!]) {
      const { q, cache } = store(shape, randomQkv(shape, 19, 9), 0, undefined);
      const parts = new Float32Array(partsSize(shape));
      runSchedules(attentionParts, cacheShape(shape), [q, ...cache, parts], [18]);
    }
  });

  it('survives scores that differ by hundreds', () => {
    const shape = SHAPES[0]!;
    const qkv = randomQkv(shape, 20, 3).map((x) => x * 30);
    const stored = store(shape, qkv, 0, undefined);
    const width = shape.heads * shape.headDim;
    const out = cropRows(attentionOf(cacheShape(shape), stored, 0), width);
    const expected = attend(cropRows(stored.q, width), ...readCache(stored, shape, 20), shape);
    // Scores of some 10^4 are known to 10^-3 in f32, and their exponentials no better.
    expected.forEach((x, i) => {
      expect(Math.abs(out[i]! - x)).toBeLessThan(0.3);
    });
  });
});
