import { expect, it } from 'vitest';
import { openCheckpoint } from '../checkpoint/open.ts';
import { encodedBytes } from '../encodings/encoding.ts';
import { importModel } from '../models/import.ts';
import { runPasses } from '../passes/pipeline.ts';
import { lookupTables } from './lookups.ts';
import { planModel } from './plan.ts';

async function planWith(head: 'int8' | undefined) {
  const checkpoint = await openCheckpoint('models/tiny-bitnet');
  const { graph } = importModel(checkpoint, { context: 64 });
  const passed = runPasses(graph, head === undefined ? {} : { head });
  await checkpoint.close();
  return { graph: passed, plan: planModel(passed, { context: 64, block: 16, cacheElem: 'f32' }) };
}

it('an embedding with a head of its own is one, with a row for each token', async () => {
  const { graph, plan } = await planWith('int8');
  const name = graph.nodes.find(({ op }) => op === 'embedding')!.inputs[1]!;
  const constant = graph.constants.find((c) => c.name === name)!;
  const [bytes] = encodedBytes(constant);
  const [found, ...others] = lookupTables(plan);
  expect(others).toEqual([]);
  expect(found).toEqual({
    offset: plan.weights.find((slot) => slot.constant === name)!.regions[0]!.offset,
    bytes,
    rowBytes: bytes! / plan.vocab,
  });
});

it('an embedding that the head multiplies by is none', async () => {
  const { plan } = await planWith(undefined);
  expect(lookupTables(plan)).toEqual([]);
});
