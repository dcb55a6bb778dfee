import { LutraError } from '../common/errors.ts';
import type { Constant, Graph, Node, TensorType } from '../graph/ir.ts';
import { codeBits } from '../graph/types.ts';
import type { PlanOptions, ShapeValue } from './types.ts';

/** Where a kernel's buffer comes from. */
export type Operand =
  | { readonly kind: 'value'; readonly name: string }
  | { readonly kind: 'weight'; readonly constant: string; readonly region: number }
  | { readonly kind: 'cache'; readonly layer: number; readonly part: 'keys' | 'values' }
  | { readonly kind: 'tokens' }
  | { readonly kind: 'outputs' };

/** `n`: rows of this call; `pos`: position of a sequence's first token; `tokens`: tokens of the block. */
type StepScalar = 'n' | 'pos' | 'tokens';

export interface StepKernel {
  readonly op: string;
  readonly family: string;
  readonly shape: Readonly<Record<string, ShapeValue>>;
  readonly node?: Node;
}

/** One kernel call of the forward step, before buffers have addresses. */
export interface Step {
  /**
   * Rows the call covers: all tokens of the block, or those whose logits are wanted; `sequences`: a call for
   * each sequence in the block, on its tokens.
   */
  readonly rows: 'tokens' | 'outputs' | 'sequences';
  readonly kernel: StepKernel;
  /** A kernel that is better when there is exactly one row. */
  readonly single?: StepKernel;
  readonly operands: readonly Operand[];
  readonly scalars: readonly StepScalar[];
  /** Values this step defines (they are among its operands). */
  readonly defines: readonly { readonly name: string; readonly type: TensorType }[];
  /** The defined value may take the memory of this operand, if nothing reads that later. */
  readonly inPlaceOf?: string;
}

interface Context {
  readonly constants: ReadonlyMap<string, Constant>;
  readonly types: ReadonlyMap<string, TensorType>;
  readonly options: PlanOptions;
}

type Lowering = (node: Node, context: Context) => readonly Step[];

function lastDim(type: TensorType): number {
  const size = type.shape.at(-1);
  if (typeof size !== 'number') {
    throw new LutraError('internal', 'plan: the last axis of an activation must have a fixed size');
  }
  return size;
}

function rowsOf(type: TensorType): 'tokens' | 'outputs' {
  return type.shape[0] === 'outputs' ? 'outputs' : 'tokens';
}

function typeOf(name: string, context: Context): TensorType {
  const type = context.types.get(name);
  if (type === undefined) throw new LutraError('internal', `plan: value ${name} has no type`);
  return type;
}

function operand(name: string, context: Context): Operand {
  return context.constants.has(name)
    ? { kind: 'weight', constant: name, region: 0 }
    : { kind: 'value', name };
}

function attr(node: Node, name: string): ShapeValue {
  const value = node.attrs[name];
  if (value === undefined || typeof value === 'object') {
    throw new LutraError('internal', `plan: ${node.op} lacks attribute ${name}`);
  }
  return value;
}

/** A step whose buffers are the node's inputs, then its outputs. */
function simpleStep(node: Node, context: Context, kernel: StepKernel, more: Partial<Step> = {}): Step {
  const [first] = node.outputs;
  if (first === undefined) throw new LutraError('internal', `plan: ${node.op} has no output`);
  return {
    rows: rowsOf(first.type),
    kernel,
    operands: [
      ...node.inputs.map((name) => operand(name, context)),
      ...node.outputs.map(({ name }): Operand => ({ kind: 'value', name })),
    ],
    scalars: ['n'],
    defines: node.outputs,
    ...more,
  };
}

const plain = (op: string, shape: StepKernel['shape'], family = 'default'): StepKernel => ({
  op,
  family,
  shape,
});

function rowWise(shapeOf: (node: Node, k: number) => StepKernel['shape']): Lowering {
  return (node, context) => {
    const k = lastDim(typeOf(node.inputs[0]!, context));
    return [simpleStep(node, context, plain(node.op, shapeOf(node, k)))];
  };
}

function lowbitMatmul(residual: boolean): Lowering {
  return (node, context) => {
    const weight = context.constants.get(node.inputs[3]!);
    const [m, k] = weight?.type.shape ?? [];
    if (weight?.encoding === undefined || typeof m !== 'number' || typeof k !== 'number') {
      throw new LutraError('internal', `plan: the weight of ${node.outputs[0]?.name} has no encoding`, {
        hint: 'Run the pass choose-encodings first.',
      });
    }
    const kernel = (batch: string) =>
      plain('lowbit.matmul', { m, k, residual, batch, encoding: weight.encoding! }, 'mad');
    const base = simpleStep(node, context, kernel('many'), { single: kernel('one') });
    return [residual ? { ...base, inPlaceOf: node.inputs[5]! } : base];
  };
}

/** How `quantize.group` writes integers, by their dtype. */
const ACTIVATIONS: Readonly<Record<string, string>> = { i8: 'int8', i16: 'int16' };

function groupMatmul(residual: boolean): Lowering {
  return (node, context) => {
    const [q, , , weight, scales] = node.inputs.map((name) => context.constants.get(name) ?? name);
    const zerosAt = residual ? 6 : 5;
    const zeros =
      node.inputs[zerosAt] === undefined ? undefined : context.constants.get(node.inputs[zerosAt]);
    if (typeof weight !== 'object' || typeof scales !== 'object' || typeof q !== 'string') {
      throw new LutraError('internal', `plan: the weight of ${node.outputs[0]?.name} must be a constant`);
    }
    const [m, k] = weight.type.shape as readonly number[];
    const common = {
      m: m!,
      k: k!,
      bits: codeBits(weight.type.dtype)!,
      group: attr(node, 'group'),
      activationGroup: attr(node, 'activationGroup'),
      zero: attr(node, 'zero'),
      zeros: zeros?.type.dtype ?? 'none',
      scales: scales.type.dtype,
      to: ACTIVATIONS[typeOf(q, context).dtype]!,
      residual,
      encoding: weight.encoding!,
    };
    const kernel = (batch: string) => plain('lowbit.matmul.group', { ...common, batch }, 'mad');
    const base = simpleStep(node, context, kernel('many'), { single: kernel('one') });
    return [residual ? { ...base, inPlaceOf: node.inputs[5]! } : base];
  };
}

/** Quantization by groups of columns; the order of these is an input more. */
const quantizeGroup = (inputs: number): Lowering =>
  rowWise((node, k) => ({ ...(node.attrs as StepKernel['shape']), k, ordered: node.inputs.length > inputs }));

const matmul: Lowering = (node, context) => {
  const table = context.constants.get(node.inputs[1]!);
  const [m, k] = table?.type.shape ?? [];
  if (table === undefined || typeof m !== 'number' || typeof k !== 'number') {
    throw new LutraError('internal', 'plan: the table of matmul must be a constant');
  }
  const int8 = table.encoding === 'int8-rows';
  const step = simpleStep(node, context, plain('matmul', { m, k, elem: int8 ? 'i8' : table.type.dtype }));
  const [x, weight, out] = step.operands;
  const scales: Operand[] = int8 ? [{ kind: 'weight', constant: table.name, region: 1 }] : [];
  return [{ ...step, operands: [x!, weight!, ...scales, out!] }];
};

const attentionPacked: Lowering = (node, context) => {
  const { context: positions, cacheElem } = context.options;
  const layer = Number(attr(node, 'layer'));
  const heads = Number(attr(node, 'heads'));
  const kvHeads = Number(attr(node, 'kvHeads'));
  const headDim = Number(attr(node, 'headDim'));
  const [output] = node.outputs;
  const query = { name: `${output!.name}.query`, type: output!.type };
  const keys: Operand = { kind: 'cache', layer, part: 'keys' };
  const values: Operand = { kind: 'cache', layer, part: 'values' };
  const shape = { heads, kvHeads, headDim, context: positions, cacheElem };
  return [
    {
      rows: 'sequences',
      kernel: plain('rope.store', { ...shape, style: attr(node, 'style') }),
      operands: [
        operand(node.inputs[0]!, context),
        operand(node.inputs[1]!, context),
        { kind: 'value', name: query.name },
        keys,
        values,
      ],
      scalars: ['n', 'pos'],
      defines: [query],
    },
    {
      rows: 'sequences',
      kernel: plain('attention', shape),
      operands: [{ kind: 'value', name: query.name }, keys, values, { kind: 'value', name: output!.name }],
      scalars: ['n', 'pos'],
      defines: [output!],
    },
  ];
};

/** How each operator that passes leave behind becomes kernel calls. */
const LOWERINGS: Readonly<Record<string, Lowering>> = {
  embedding: (node, context) => {
    const table = context.constants.get(node.inputs[1]!);
    if (table === undefined) throw new LutraError('internal', 'plan: the embedding table must be a constant');
    const step = simpleStep(
      node,
      context,
      plain('embedding', { hidden: lastDim(table.type), elem: table.type.dtype }),
    );
    return [{ ...step, operands: [{ kind: 'tokens' }, ...step.operands.slice(1)] }];
  },
  rmsNorm: rowWise((node, k) => ({ k, eps: attr(node, 'eps') })),
  'rmsNorm.quantize': rowWise((node, k) => ({ k, eps: attr(node, 'eps') })),
  quantize: rowWise((_, k) => ({ k })),
  'quantize.group': quantizeGroup(1),
  'rmsNorm.quantize.group': quantizeGroup(2),
  'lowbit.matmul.group': groupMatmul(false),
  'lowbit.matmul.group.add': groupMatmul(true),
  'lowbit.matmul': lowbitMatmul(false),
  'lowbit.matmul.add': lowbitMatmul(true),
  'attention.packed': attentionPacked,
  'gate.packed': (node, context) => {
    const k = lastDim(node.outputs[0]!.type);
    return [simpleStep(node, context, plain('gate.packed', { k, act: attr(node, 'act') }))];
  },
  add: rowWise((_, k) => ({ k })),
  selectOutputs: (node, context) => {
    const k = lastDim(node.outputs[0]!.type);
    const step = simpleStep(node, context, plain('selectOutputs', { k }), { scalars: ['tokens'] });
    const [x, ...rest] = step.operands;
    return [{ ...step, operands: [x!, { kind: 'outputs' }, ...rest] }];
  },
  matmul,
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
