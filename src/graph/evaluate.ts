import { LutraError } from '../common/errors.ts';
import type { Dim, Graph, TensorType, Value } from './ir.ts';
import { nodeText, operatorOf, type Registry } from './registry.ts';
import { fillAttrs } from './schema.ts';
import { holds, type Numbers, type Step, type Tensor } from './step.ts';
import { typeText } from './types.ts';

/** Called with every value that a node computes, in order: to look inside a model. */
export type Observer = (value: Value, tensor: Tensor) => void;

function sizeOf(dim: Dim, step: Step): number {
  if (dim === 'tokens') return step.tokens;
  return dim === 'outputs' ? step.outputs : dim;
}

/** Gives numbers their shape in this step; throws `invalid` when they are not what the type says. */
export function shaped(name: string, type: TensorType, data: Numbers, step: Step): Tensor {
  const shape = type.shape.map((dim) => sizeOf(dim, step));
  const count = shape.reduce((product, size) => product * size, 1);
  if (data.length !== count || !holds(data, type.dtype)) {
    throw new LutraError(
      'invalid',
      `${name} is ${typeText(type)}, ${count} values, but got a ${data.constructor.name} of ${data.length}`,
    );
  }
  return { shape, data };
}

/**
 * Runs the references of a graph's nodes in order. `values` has the inputs and constants by name.
 * Returns the graph's outputs, in order.
 */
export function evaluateGraph(
  graph: Graph,
  registry: Registry,
  values: ReadonlyMap<string, Tensor>,
  step: Step,
  observe?: Observer,
): readonly Tensor[] {
  const known = new Map(values);
  const read = (name: string, where: string): Tensor => {
    const value = known.get(name);
    if (value === undefined) throw new LutraError('invalid', `${where}: ${name} has no value`);
    return value;
  };
  for (const node of graph.nodes) {
    const where = nodeText(node);
    const def = operatorOf(registry, node.op, where);
    const results = def.reference({
      inputs: node.inputs.map((name) => read(name, where)),
      attrs: fillAttrs(node.attrs, def.attrs),
      step,
    });
    for (const [i, value] of node.outputs.entries()) {
      const data = results[i];
      if (data === undefined)
        throw new LutraError('invalid', `${where}: the reference gives no ${value.name}`);
      const tensor = shaped(`${where}: ${value.name}`, value.type, data, step);
      known.set(value.name, tensor);
      observe?.(value, tensor);
    }
  }
  return graph.outputs.map((name) => read(name, `graph ${graph.name}`));
}
