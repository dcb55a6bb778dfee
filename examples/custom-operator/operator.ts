/**
 * An operator that lutra does not have: every column times a learned factor, kept within a limit. It needs a
 * definition, which says what it means, and a kernel, which says how it is computed.
 */
import type { Constant, Graph, Node } from '../../src/graph/ir.ts';
import { defineOperator } from '../../src/graph/registry.ts';
import { freshNames, replaceNodes } from '../../src/graph/rewrite.ts';
import { input, positiveAttr } from '../../src/graph/schema.ts';
import { tensor } from '../../src/graph/types.ts';
import { rowStride } from '../../src/kernels/kernel.ts';
import { forElements } from '../../src/kernels/lanes.ts';
import { FunctionBuilder } from '../../src/loops/builder.ts';
import { add, float, max, min, mul } from '../../src/loops/expr.ts';
import type { OperatorKernel } from '../../src/plan/lower.ts';

export const scaleClip = defineOperator({
  name: 'acme.scaleClip',
  doc: 'x * weight, column by column, kept within -limit and limit.',
  inputs: [input('x', 'f32', 't', 'k'), input('weight', 'f32', 'k')],
  attrs: { limit: positiveAttr() },
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('k'))],
  reference({ inputs: [x, weight], attrs: { limit } }) {
    const k = weight!.data.length;
    return [
      Float64Array.from(x!.data, (value, i) =>
        Math.min(Math.max(value * weight!.data[i % k]!, -limit), limit),
      ),
    ];
  },
});

/** One thread iteration covers up to 512 columns of a row; 16 columns are computed at a time. */
export const scaleClipKernel: OperatorKernel = (node, name) => {
  const k = Number(node.outputs[0]!.type.shape[1]);
  const limit = Number(node.attrs.limit);
  const b = new FunctionBuilder(name);
  const x = b.buffer('x', 'f32', 'read');
  const weight = b.buffer('weight', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  forElements(b, n, k, (row, column) => {
    const at = b.let('at', add(mul(row, rowStride(k)), column));
    const scaled = mul(b.load(x, at, 16), b.load(weight, column, 16));
    b.store(out, at, min(max(scaled, float(-limit, 16)), float(limit, 16)));
  });
  return b.build();
};

/** Puts the operator behind every gate of a model. `factors` are its weights, one for each column. */
export function insertScaleClip(
  graph: Graph,
  factors: (width: number) => readonly number[],
  limit: number,
): Graph {
  const fresh = freshNames(graph);
  let changed = graph;
  for (const gate of graph.nodes.filter((node) => node.op === 'gate')) {
    const [out] = gate.outputs;
    const width = Number(out!.type.shape[1]);
    const weight: Constant = {
      name: fresh('scaleClip.weight'),
      type: tensor('f32', width),
      source: { kind: 'data', values: factors(width) },
    };
    // The gate gets a name of its own and the new node takes over the old one, so that readers stay as they are.
    const inner = { ...out!, name: fresh(`${out!.name}.unscaled`) };
    const scale: Node = {
      op: scaleClip.name,
      inputs: [inner.name, weight.name],
      outputs: [out!],
      attrs: { limit },
    };
    changed = replaceNodes(changed, {
      remove: [gate],
      insert: [{ ...gate, outputs: [inner] }, scale],
      constants: [weight],
    });
  }
  return changed;
}
