import { expect, it } from 'vitest';
import { openCheckpoint } from '../checkpoint/open.ts';
import { importModel } from '../models/import.ts';
import type { HeadForm } from '../passes/pass.ts';
import { runPasses } from '../passes/pipeline.ts';
import { planModel } from './plan.ts';
import { streamedRanges } from './streamed.ts';

/** Encodings of the matrices that lie in the ranges, once each, and the bytes of all ranges. */
async function streamed(head: HeadForm) {
  const checkpoint = await openCheckpoint('models/tiny-bitnet');
  const graph = runPasses(importModel(checkpoint, { context: 64 }).graph, { head });
  await checkpoint.close();
  const plan = planModel(graph, { context: 64, block: 16, cacheElem: 'f32' });
  const ranges = streamedRanges(plan);
  const tables = plan.weights.filter(({ regions: [first] }) => {
    const isIn = ranges.some(
      ({ offset, bytes }) => first!.offset >= offset && first!.offset + first!.bytes <= offset + bytes,
    );
    return isIn && first!.bytes > 1 << 16;
  });
  return {
    encodings: [...new Set(tables.map(({ encoding }) => encoding))].sort(),
    share: ranges.reduce((sum, { bytes }) => sum + bytes, 0) / plan.weightsBytes,
  };
}

it('streams all matrices, of a tied table only where it is the head', async () => {
  const stored = await streamed('stored');
  const rounded = await streamed('int8');
  const exact = await streamed('exact');
  expect(stored.encodings).toEqual(['i2', 'padded-rows']);
  expect(rounded.encodings).toEqual(['i2', 'int8-rows']);
  expect(exact.encodings).toEqual(['i2', 'int6-g64-scan']);
  expect(stored.share).toBeGreaterThan(0.95);
  expect(rounded.share).toBeLessThan(0.9);
});
