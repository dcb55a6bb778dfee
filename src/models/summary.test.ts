import { expect, it } from 'vitest';
import { importModel } from './import.ts';
import { summarizeModel } from './summary.ts';
import { memoryCheckpoint, SMALL, smallConfig, smallTensors } from './testing.ts';

const config = {
  ...smallConfig(SMALL),
  model_type: 'llama',
  quantization_config: { quant_method: 'bitnet' },
};
const TERNARY = 2 * (24 * (24 + 8 + 8) + 24 * 24 + 3 * 24 * 20);

it('adds up an untied model', () => {
  const checkpoint = memoryCheckpoint(smallTensors({ weights: { packedScale: 8 } }), config);
  const summary = summarizeModel(checkpoint, importModel(checkpoint).info);
  expect(summary.totalParameters).toBe(TERNARY + 2 * 18 * 24 + 5 * 24);
  // The 14 projections have one bf16 scale each.
  expect(summary.checkpointBytes).toBe(TERNARY / 4 + 14 * 2 + 2 * (2 * 18 * 24 + 5 * 24));
  expect(summary.weightBytes).toBe(TERNARY / 4 + 4 * 5 * 24 + 2 * 2 * 18 * 24);
  expect(summary.bytesPerToken).toBe(TERNARY / 4 + 4 * 5 * 24 + 2 * 18 * 24 + 2 * 24);
  expect(summary.cacheBytesPerPosition).toEqual({ f32: 2 * 2 * 2 * 4 * 4, f16: 2 * 2 * 2 * 4 * 2 });
});

it('counts a tied table once, and twice with an int8 head', () => {
  const tensors = smallTensors({ weights: { packedScale: 8 }, tied: true });
  const checkpoint = memoryCheckpoint(tensors, { ...config, tie_word_embeddings: true });
  const { info } = importModel(checkpoint);
  const body = TERNARY / 4 + 4 * 5 * 24;
  expect(summarizeModel(checkpoint, info).weightBytes).toBe(body + 2 * 18 * 24);
  expect(summarizeModel(checkpoint, info, 'int8').weightBytes).toBe(body + 3 * 18 * 24 + 4 * 18);
  expect(summarizeModel(checkpoint, info, 'int8').bytesPerToken).toBe(body + 18 * 24 + 4 * 18 + 2 * 24);
});
