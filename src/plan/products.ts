/** Encodings of weights that follow from schedules found by tuning. */
import type { Graph } from '../graph/ir.ts';
import { productKey } from '../kernels/alternatives.ts';
import { lowerGraph } from './steps.ts';
import type { PlanOptions, TunedSchedule } from './types.ts';

/**
 * Constants of a graph whose encoding tuning chose otherwise, and the one it chose: that of the schedule adopted last
 * for the product they are in.
 */
export function tunedEncodings(
  graph: Graph,
  options: PlanOptions,
  custom: ReadonlySet<string>,
  tuned: readonly TunedSchedule[],
): ReadonlyMap<string, string> {
  const chosen = new Map<string, string>();
  for (const choice of tuned) {
    const key = productKey(choice, true);
    if (key !== undefined) chosen.set(key, String(choice.shape.encoding));
  }
  const encodings = new Map<string, string>();
  if (chosen.size === 0) return encodings;
  for (const { kernel, operands } of lowerGraph(graph, options, custom)) {
    const encoding = chosen.get(productKey(kernel, true) ?? '');
    const weight = operands.find((operand) => operand.kind === 'weight');
    if (encoding === undefined || encoding === kernel.shape.encoding || weight === undefined) continue;
    encodings.set(weight.constant, encoding);
  }
  return encodings;
}
