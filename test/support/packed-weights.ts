import type { Checkpoint } from '../../src/checkpoint/checkpoint.ts';
import { encodeConstant } from '../../src/encodings/encoding.ts';
import type { Graph } from '../../src/graph/ir.ts';
import type { Plan } from '../../src/plan/types.ts';

/** The weights of a plan in memory, as the artifact's file would hold them. */
export async function packedWeights(plan: Plan, graph: Graph, checkpoint: Checkpoint): Promise<Uint8Array> {
  const weights = new Uint8Array(plan.weightsBytes);
  for (const slot of plan.weights) {
    const constant = graph.constants.find(({ name }) => name === slot.constant)!;
    const packed = await encodeConstant(constant, checkpoint);
    for (const [i, { offset }] of slot.regions.entries()) weights.set(packed[i]!, offset);
  }
  return weights;
}
