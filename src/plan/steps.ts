/** How a graph becomes kernel calls, before buffers have addresses. */
import { LutraError } from '../common/errors.ts';
import type { Graph, Node } from '../graph/ir.ts';
import { attentionPacked } from './steps/attention.ts';
import { blockMatmul, groupMatmul, lowbitMatmul } from './steps/low-bit.ts';
import { matmul, matmulScanned } from './steps/matmul.ts';
import {
  attr,
  type Context,
  kernelOf,
  type Lowering,
  lastDim,
  type Step,
  type StepKernel,
  simpleStep,
  typeOf,
} from './steps/step.ts';
import type { PlanOptions } from './types.ts';

/** One call, with the width of the first input's rows in its shape. */
function rowWise(shapeOf: (node: Node, k: number) => StepKernel['shape']): Lowering {
  return (node, context) => {
    const k = lastDim(typeOf(node.inputs[0]!, context));
    return [simpleStep(node, context, kernelOf(node.op, shapeOf(node, k)))];
  };
}

/** Quantization by groups of columns; the order of these is an input more. */
const quantizeGroup = (inputs: number): Lowering =>
  rowWise((node, k) => ({ ...(node.attrs as StepKernel['shape']), k, ordered: node.inputs.length > inputs }));

/** How each operator that passes leave behind becomes kernel calls. */
const LOWERINGS: Readonly<Record<string, Lowering>> = {
  embedding: (node, context) => {
    const table = context.constants.get(node.inputs[1]!);
    if (table === undefined) throw new LutraError('internal', 'plan: the embedding table must be a constant');
    const step = simpleStep(
      node,
      context,
      kernelOf('embedding', { hidden: lastDim(table.type), elem: table.type.dtype }),
    );
    return [{ ...step, operands: [{ kind: 'tokens' }, ...step.operands.slice(1)] }];
  },
  rmsNorm: rowWise((node, k) => ({ k, eps: attr(node, 'eps') })),
  'rmsNorm.quantize': rowWise((node, k) => ({ k, eps: attr(node, 'eps') })),
  quantize: rowWise((_, k) => ({ k })),
  'quantize.group': quantizeGroup(1),
  'rmsNorm.quantize.group': quantizeGroup(2),
  'quantize.blocks': rowWise((node, k) => ({ ...(node.attrs as StepKernel['shape']), k })),
  'lowbit.matmul.blocks': blockMatmul(false),
  'lowbit.matmul.blocks.add': blockMatmul(true),
  'lowbit.matmul.group': groupMatmul(false),
  'lowbit.matmul.group.add': groupMatmul(true),
  'lowbit.matmul': lowbitMatmul(false),
  'lowbit.matmul.add': lowbitMatmul(true),
  'attention.packed': attentionPacked,
  'gate.packed': (node, context) => {
    const k = lastDim(node.outputs[0]!.type);
    return [simpleStep(node, context, kernelOf('gate.packed', { k, act: attr(node, 'act') }))];
  },
  add: rowWise((_, k) => ({ k })),
  columns: (node, context) => {
    const [a = 0, b = 0, c = 0] = node.inputs.map((name) => lastDim(typeOf(name, context)));
    return [simpleStep(node, context, kernelOf('columns', { a, b, c }))];
  },
  bias: rowWise((_, k) => ({ k })),
  scale: rowWise((node, k) => ({ k, factor: attr(node, 'factor') })),
  'rmsNorm.heads': (node, context) => {
    const shape = {
      k: lastDim(node.outputs[0]!.type),
      normed: lastDim(typeOf(node.inputs[1]!, context)),
      headDim: attr(node, 'headDim'),
      eps: attr(node, 'eps'),
    };
    return [simpleStep(node, context, kernelOf('rmsNorm.heads', shape))];
  },
  selectOutputs: (node, context) => {
    const k = lastDim(node.outputs[0]!.type);
    const step = simpleStep(node, context, kernelOf('selectOutputs', { k }), { scalars: ['tokens'] });
    const [x, ...rest] = step.operands;
    return [{ ...step, operands: [x!, { kind: 'outputs' }, ...rest] }];
  },
  matmul,
  'matmul.scanned': matmulScanned,
};

/** The node with placeholders for its names, so that equal ones, as those of all layers, share a kernel. */
function unnamed(node: Node): Node {
  return {
    ...node,
    inputs: node.inputs.map((_, i) => `in${i}`),
    outputs: node.outputs.map(({ type }, i) => ({ name: `out${i}`, type })),
  };
}

/**
 * The kernel calls of a graph, in its order. Operators in `custom` (registered by a user) become one call
 * with the node's inputs and outputs as buffers and the row count as scalar.
 */
export function lowerGraph(graph: Graph, options: PlanOptions, custom: ReadonlySet<string>): readonly Step[] {
  const constants = new Map(graph.constants.map((c) => [c.name, c]));
  const types = new Map([...graph.inputs, ...graph.constants].map((v) => [v.name, v.type]));
  const steps: Step[] = [];
  for (const node of graph.nodes) {
    for (const output of node.outputs) types.set(output.name, output.type);
    const context: Context = { constants, types, options };
    const lowering = LOWERINGS[node.op];
    if (custom.has(node.op)) {
      steps.push(
        simpleStep(node, context, { op: node.op, family: 'custom', shape: {}, node: unnamed(node) }),
      );
    } else if (lowering !== undefined) {
      steps.push(...lowering(node, context));
    } else {
      throw new LutraError('unsupported', `no kernel computes the operator ${node.op}`, {
        hint: `Kernels exist for ${Object.keys(LOWERINGS).join(', ')}; the passes turn the importers' operators into these. A registered operator needs a kernel of its own.`,
      });
    }
  }
  return steps;
}

/** Values that single logits are computed from after a step: they must outlast the blocks of it. */
export function keptValues(steps: readonly Step[]): ReadonlySet<string> {
  const ofPairs = steps.filter(({ rows }) => rows === 'pairs').flatMap(({ operands }) => operands);
  return new Set(ofPairs.flatMap((o) => (o.kind === 'value' ? [o.name] : [])));
}
