/** A model small enough to be written into tests. */
import { randomUniform } from '../common/random.ts';
import { GraphBuilder } from './builder.ts';
import type { Graph } from './ir.ts';
import { elementCount, tensor } from './types.ts';

export const SMALL_VOCAB = 11;
const [HIDDEN, HEADS, KV_HEADS, HEAD_DIM, POSITIONS] = [16, 4, 2, 4, 16] as const;
const Q_WIDTH = HEADS * HEAD_DIM;
const KV_WIDTH = KV_HEADS * HEAD_DIM;

/** A transformer with random weights, given in place, as an importer writes it or as passes leave it. */
export function smallModel(fused: boolean, layers = 2): Graph {
  const random = randomUniform(1);
  const g = new GraphBuilder(fused ? 'fused' : 'plain');
  const weight = (name: string, type = tensor('f32', HIDDEN), draw = () => 2 * random() - 1) =>
    g.constant(name, type, { kind: 'data', values: Array.from({ length: elementCount(type)! }, draw) });
  const tokens = g.input('tokens', 'i32', ['tokens']);
  const embed = weight('embed', tensor('f32', SMALL_VOCAB, HIDDEN));
  const table = weight('rope', tensor('f32', POSITIONS, HEAD_DIM));
  const heads = { heads: HEADS, kvHeads: KV_HEADS, headDim: HEAD_DIM };
  const linear = (name: string, quantized: readonly string[], rows: number, residual?: string) => {
    const w = weight(`${name}.weight`, tensor('ternary', rows, HIDDEN), () => Math.floor(3 * random()) - 1);
    const scale = weight(`${name}.scale`, tensor('f32', rows), random);
    const inputs = [...quantized, w, scale];
    if (residual === undefined) return g.op('lowbit.matmul', inputs);
    return fused
      ? g.op('lowbit.matmul.add', [...inputs, residual])
      : g.op('add', [g.op('lowbit.matmul', inputs), residual]);
  };
  const normQuantize = (x: string) => {
    const norm = weight('norm');
    return fused
      ? g.opAll('rmsNorm.quantize', [x, norm], { eps: 1e-5 })
      : g.opAll('quantize', [g.op('rmsNorm', [x, norm], { eps: 1e-5 })]);
  };
  const attention = (qkv: string, layer: number) => {
    if (fused) return g.op('attention.packed', [qkv, table], { layer, ...heads, style: 'half' });
    const turned = (start: number, count: number) => {
      const part = g.op('slice', [qkv], { start, length: count * HEAD_DIM });
      return g.op('rope', [part, table], { heads: count, headDim: HEAD_DIM, style: 'half' });
    };
    const v = g.op('slice', [qkv], { start: Q_WIDTH + KV_WIDTH, length: KV_WIDTH });
    return g.op('attention', [turned(0, HEADS), turned(Q_WIDTH, KV_HEADS), v], { layer, ...heads });
  };
  const gate = (gateUp: string) => {
    if (fused) return g.op('gate.packed', [gateUp], { act: 'silu' });
    const half = (start: number) => g.op('slice', [gateUp], { start, length: HIDDEN });
    return g.op('gate', [half(0), half(HIDDEN)], { act: 'silu' });
  };
  let x = g.op('embedding', [tokens, embed]);
  for (let layer = 0; layer < layers; layer++) {
    const attended = attention(linear('qkv', normQuantize(x), Q_WIDTH + 2 * KV_WIDTH), layer);
    x = linear('o', normQuantize(attended), HIDDEN, x);
    x = linear('down', normQuantize(gate(linear('gateUp', normQuantize(x), 2 * HIDDEN))), HIDDEN, x);
  }
  return g.build([g.op('matmul', [g.op('selectOutputs', [x]), embed], {}, 'logits')]);
}
