/** Encodings of weights that follow from schedules found by tuning. */
import type { Graph } from '../graph/ir.ts';
import { productKey } from '../kernels/alternatives.ts';
import type { TableForm } from '../kernels/lut/tables.ts';
import { lowerGraph } from './steps.ts';
import type { PlanOptions, TunedSchedule } from './types.ts';

/** What tuning chose for constants of a graph, by their names. */
export interface TunedForms {
  /** Encodings other than the graph has. */
  readonly encodings: ReadonlyMap<string, string>;
  /** Of those that are looked up, in what: families `lut` and `popcount` read the same encoding. */
  readonly tables: Readonly<Record<string, TableForm>>;
}

/** The forms of the schedules adopted last for the products that constants are in, where these are not what they have. */
export function tunedForms(
  graph: Graph,
  options: PlanOptions,
  custom: ReadonlySet<string>,
  tuned: readonly TunedSchedule[],
): TunedForms {
  const chosen = new Map<string, TunedSchedule>();
  for (const choice of tuned) {
    const key = productKey(choice, true);
    if (key !== undefined) chosen.set(key, choice);
  }
  const encodings = new Map<string, string>();
  const tables: Record<string, TableForm> = {};
  if (chosen.size === 0) return { encodings, tables };
  for (const { kernel, operands } of lowerGraph(graph, options, custom)) {
    const choice = chosen.get(productKey(kernel, true) ?? '');
    const weight = operands.find((operand) => operand.kind === 'weight');
    if (choice === undefined || weight === undefined) continue;
    const { encoding, tables: form } = choice.shape;
    if (encoding !== kernel.shape.encoding) encodings.set(weight.constant, String(encoding));
    if (form !== undefined && form !== kernel.shape.tables) tables[weight.constant] = form as TableForm;
  }
  return { encodings, tables };
}
