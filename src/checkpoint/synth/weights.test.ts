import { expect, test } from 'vitest';
import { tensorBytes } from '../write.ts';
import { type SynthShape, synthTensors } from './weights.ts';

const BITNET_2B: SynthShape = {
  hidden: 2560,
  intermediate: 6912,
  layers: 30,
  queryRows: 2560,
  keyRows: 640,
  vocab: 128256,
  tied: true,
  subNorms: { attention: 'attn_sub_norm', mlp: 'ffn_sub_norm' },
  linear: 'multiply',
  float: 'bf16',
};

test('bitnet-b1.58-2B-4T has 542 tensors, 521 MB of packed weights, 657 MB of embeddings', () => {
  const tensors = synthTensors(BITNET_2B, 0);
  expect(tensors).toHaveLength(542);
  const packed = tensors
    .filter(({ dtype }) => dtype === 'u8')
    .reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  expect(packed * 4).toBe(2_084_044_800);
  expect(tensorBytes(tensors[0]!)).toBe(656_670_720);
});

test('the chunks of a tensor add up to its size', () => {
  const tensors = synthTensors({ ...BITNET_2B, layers: 1, vocab: 300, intermediate: 412 }, 0);
  for (const tensor of tensors) {
    let bytes = 0;
    for (const chunk of tensor.chunks() as Iterable<Uint8Array>) bytes += chunk.length;
    expect(bytes).toBe(tensorBytes(tensor));
  }
});
