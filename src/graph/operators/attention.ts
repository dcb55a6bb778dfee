import { defineOperator, type InferCall } from '../registry.ts';
import { choiceAttr, defaultAttr, input, integerAttr } from '../schema.ts';
import type { LayerCache, Numbers, Step, Tensor } from '../step.ts';
import { tensor } from '../types.ts';
import { rejectStep } from './reject-step.ts';
import { columns } from './select.ts';

interface Heads {
  readonly heads: number;
  readonly headDim: number;
}

type Style = 'half' | 'interleaved';

const style = choiceAttr('half', 'interleaved');

const attentionAttrs = {
  layer: integerAttr(0),
  heads: integerAttr(1),
  kvHeads: integerAttr(1),
  headDim: integerAttr(1),
  /** Positions that a token sees, its own among them; 0: all. */
  window: defaultAttr(integerAttr(0), 0),
};

/**
 * Rotates the pairs of each head of x [tokens, heads * headDim] in place. Table rows are positions: cosines
 * of the headDim/2 angles, then sines. Pair i of a head is (i, i + headDim/2) in style `half`, (2i, 2i + 1)
 * in style `interleaved`.
 */
function rotate(x: Float64Array, table: Tensor, { heads, headDim }: Heads, style: Style, step: Step): void {
  const half = headDim / 2;
  const positions = table.shape[0]!;
  const stride = style === 'half' ? 1 : 2;
  const partner = style === 'half' ? half : 1;
  if (step.position + step.tokens > positions) {
    rejectStep(
      'rope',
      `position ${step.position + step.tokens - 1} is beyond the ${positions} of the rotation table`,
    );
  }
  for (let t = 0; t < step.tokens; t++) {
    const angles = (step.position + t) * headDim;
    for (let head = 0; head < heads; head++) {
      const start = (t * heads + head) * headDim;
      for (let i = 0; i < half; i++) {
        const cos = table.data[angles + i]!;
        const sin = table.data[angles + half + i]!;
        const at = start + i * stride;
        const a = x[at]!;
        const b = x[at + partner]!;
        x[at] = a * cos - b * sin;
        x[at + partner] = b * cos + a * sin;
      }
    }
  }
}

function expectEven(headDim: number, reject: (what: string) => never): void {
  if (headDim % 2 !== 0) reject(`headDim ${headDim} is odd: rotation needs pairs`);
}

function expectTable(tableDim: number, headDim: number, reject: (what: string) => never): void {
  if (tableDim !== headDim) reject(`the table's rows have ${tableDim} values, but headDim is ${headDim}`);
}

function expectWidth(name: string, width: number, expected: number, reject: (what: string) => never): void {
  if (width !== expected) reject(`${name} is ${width} wide, but its heads are ${expected} together`);
}

export const rope = defineOperator({
  name: 'rope',
  doc: 'Rotary position embedding: turns pair i of every head by the angle of its position in the table.',
  inputs: [input('x', 'f32', 'tokens', 'width'), input('table', 'f32', 'positions', 'tableDim')],
  attrs: { heads: integerAttr(1), headDim: integerAttr(1), style },
  outputs: ['out'],
  infer({ size, attrs: { heads, headDim }, reject }) {
    expectEven(headDim, reject);
    expectTable(size('tableDim'), headDim, reject);
    expectWidth('x', size('width'), heads * headDim, reject);
    return [tensor('f32', 'tokens', size('width'))];
  },
  reference({ inputs: [x, table], attrs, step }) {
    const out = Float64Array.from(x!.data);
    rotate(out, table!, attrs, attrs.style, step);
    return [out];
  },
});

interface GroupedHeads extends Heads {
  readonly kvHeads: number;
  readonly layer: number;
  readonly window: number;
}

function expectGroups({ attrs: { heads, kvHeads }, reject }: InferCall<{ heads: number; kvHeads: number }>) {
  if (heads % kvHeads !== 0) reject(`${heads} heads cannot share ${kvHeads} key/value heads evenly`);
}

/**
 * softmax(q k^T / sqrt(headDim)) v of each token over the positions up to its own, or the last `window` of them; head h
 * reads key/value head floor(h kvHeads / heads).
 */
function attend(q: Numbers, { keys, values }: LayerCache, shape: GroupedHeads, step: Step): Float64Array {
  const { heads, kvHeads, headDim, window } = shape;
  const width = kvHeads * headDim;
  const out = new Float64Array(step.tokens * heads * headDim);
  const weights = new Float64Array(step.position + step.tokens);
  for (let t = 0; t < step.tokens; t++) {
    const positions = step.position + t + 1;
    const first = window === 0 ? 0 : Math.max(0, positions - window);
    for (let head = 0; head < heads; head++) {
      const start = (t * heads + head) * headDim;
      const kvStart = Math.floor((head * kvHeads) / heads) * headDim;
      let largest = Number.NEGATIVE_INFINITY;
      for (let p = first; p < positions; p++) {
        let score = 0;
        for (let i = 0; i < headDim; i++) score += q[start + i]! * keys[p * width + kvStart + i]!;
        weights[p] = score / Math.sqrt(headDim);
        largest = Math.max(largest, weights[p]!);
      }
      let total = 0;
      for (let p = first; p < positions; p++) {
        weights[p] = Math.exp(weights[p]! - largest);
        total += weights[p]!;
      }
      for (let p = first; p < positions; p++) {
        const weight = weights[p]! / total;
        for (let i = 0; i < headDim; i++) out[start + i]! += weight * values[p * width + kvStart + i]!;
      }
    }
  }
  return out;
}

export const attention = defineOperator({
  name: 'attention',
  doc: 'Causal grouped-query attention over the KV cache of the layer, to which k and v are appended first: softmax(q k^T / sqrt(headDim)) v; with a window, over its last positions only.',
  inputs: [
    input('q', 'f32', 'tokens', 'qWidth'),
    input('k', 'f32', 'tokens', 'kvWidth'),
    input('v', 'f32', 'tokens', 'kvWidth'),
  ],
  attrs: attentionAttrs,
  outputs: ['out'],
  infer(call) {
    const { heads, kvHeads, headDim } = call.attrs;
    expectGroups(call);
    expectWidth('q', call.size('qWidth'), heads * headDim, call.reject);
    expectWidth('k', call.size('kvWidth'), kvHeads * headDim, call.reject);
    return [tensor('f32', 'tokens', heads * headDim)];
  },
  reference({ inputs: [q, k, v], attrs, step }) {
    const width = attrs.kvHeads * attrs.headDim;
    const stored = step.cache.append(attrs.layer, step.position, width, k!.data, v!.data);
    return [attend(q!.data, stored, attrs, step)];
  },
});

export const attentionPacked = defineOperator({
  name: 'attention.packed',
  doc: 'rope on q and k, then attention, of rows that hold q, k and v side by side.',
  inputs: [input('qkv', 'f32', 'tokens', 'width'), input('table', 'f32', 'positions', 'tableDim')],
  attrs: { ...attentionAttrs, style },
  outputs: ['out'],
  infer(call) {
    const { heads, kvHeads, headDim } = call.attrs;
    expectGroups(call);
    expectEven(headDim, call.reject);
    expectTable(call.size('tableDim'), headDim, call.reject);
    expectWidth('qkv', call.size('width'), (heads + 2 * kvHeads) * headDim, call.reject);
    return [tensor('f32', 'tokens', heads * headDim)];
  },
  reference({ inputs: [qkv, table], attrs, step }) {
    const { layer, heads, kvHeads, headDim, style } = attrs;
    const qWidth = heads * headDim;
    const kvWidth = kvHeads * headDim;
    const q = columns(qkv!, 0, qWidth);
    const k = columns(qkv!, qWidth, kvWidth);
    const v = columns(qkv!, qWidth + kvWidth, kvWidth);
    rotate(q, table!, attrs, style, step);
    rotate(k, table!, { heads: kvHeads, headDim }, style, step);
    const stored = step.cache.append(layer, step.position, kvWidth, k, v);
    return [attend(q, stored, attrs, step)];
  },
});
