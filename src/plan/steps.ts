import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import type { Constant, Graph, Node, TensorType } from '../graph/ir.ts';
import { codeBits } from '../graph/types.ts';
import { partsSize } from '../kernels/attention/parts.ts';
import { type CachePart, cacheParts } from '../kernels/cache.ts';
import type { BlockShape, GroupShape } from '../kernels/group/shape.ts';
import { ROW_PAD } from '../kernels/kernel.ts';
import { rowTables } from '../kernels/lowbit-lut.ts';
import { isBytes, type TablesShape, tableBytes } from '../kernels/lut/tables.ts';
import type { PlanOptions, ShapeValue } from './types.ts';

/** Where a kernel's buffer comes from. */
export type Operand =
  | { readonly kind: 'value'; readonly name: string }
  | { readonly kind: 'weight'; readonly constant: string; readonly region: number }
  | { readonly kind: 'cache'; readonly layer: number; readonly part: CachePart }
  | { readonly kind: 'tokens' }
  | { readonly kind: 'outputs' }
  /** The upper bounds of the logits, which lie behind the lower ones of all outputs. */
  | { readonly kind: 'high' };

/**
 * `n`: rows of this call; `pos`: position of a sequence's first token; `tokens`: tokens of the block; `apart`: 1 where
 * attention of several tokens leaves parts to merge.
 */
type StepScalar = 'n' | 'pos' | 'tokens' | 'apart';

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
   * each sequence in the block, on its tokens; `pairs`: single logits of the step before, in a step of no tokens.
   */
  readonly rows: 'tokens' | 'outputs' | 'sequences' | 'pairs';
  /** Only in steps that scan the head's table, or only in those that do not. */
  readonly when?: 'scan' | 'stored';
  readonly kernel: StepKernel;
  /** A kernel that is better when there is exactly one row. */
  readonly single?: StepKernel;
  /** The arguments of `single`, if it has others. */
  readonly singleArguments?: Pick<Step, 'operands' | 'scalars'>;
  readonly operands: readonly Operand[];
  readonly scalars: readonly StepScalar[];
  /** Values this step defines (they are among its operands); `few`: with a row for each sequence, or each of few tokens. */
  readonly defines: readonly { readonly name: string; readonly type: TensorType; readonly few?: boolean }[];
  /** Of several rows it is left out; what it defines has room for one. */
  readonly alone?: boolean;
  /** It merges the parts of attention, and is left out where that left none. */
  readonly merges?: boolean;
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

/** The kernel of a product in batch `one` or `many`. */
type Product = (batch: string) => StepKernel;

const multiply = (node: Node, context: Context, product: Product): readonly Step[] => [
  simpleStep(node, context, product('many'), { single: product('one') }),
];

/** Tables of the activations `q`, and the product that looks up sums in them. */
function lookUp(
  node: Node,
  context: Context,
  q: string,
  form: TablesShape,
  product: Product,
): readonly Step[] {
  const { k, activationGroup, tables } = form;
  const out = node.outputs[0]!;
  const [rows] = out.type.shape;
  const define = (name: string, dtype: 'i8' | 'i32', width: number) => ({
    name: `${out.name}.${name}`,
    type: { dtype, shape: [rows!, width] },
  });
  const defines = [
    define('tables', 'i8', tableBytes(form)),
    ...(isBytes(tables) ? [define('tableBias', 'i32', Math.ceil(k / activationGroup))] : []),
  ];
  const values = defines.map(({ name }): Operand => ({ kind: 'value', name }));
  const [step] = multiply(node, context, product);
  return [
    {
      rows: rowsOf(out.type),
      kernel: plain('lut.tables', { ...form }),
      operands: [{ kind: 'value', name: q }, ...values],
      scalars: ['n'],
      defines,
      alone: tables !== 'fast',
    },
    { ...step!, operands: [...values, ...step!.operands] },
  ];
}

/** Steps of which the last may take the memory of the residual. */
const inPlace = (steps: readonly Step[], residual: string): readonly Step[] => [
  ...steps.slice(0, -1),
  { ...steps.at(-1)!, inPlaceOf: residual },
];

function lowbitMatmul(residual: boolean): Lowering {
  return (node, context) => {
    const weight = context.constants.get(node.inputs[3]!);
    const [m, k] = weight?.type.shape ?? [];
    if (weight?.encoding === undefined || typeof m !== 'number' || typeof k !== 'number') {
      throw new LutraError('internal', `plan: the weight of ${node.outputs[0]?.name} has no encoding`, {
        hint: 'Run the pass choose-encodings first.',
      });
    }
    const { encoding } = weight;
    const kernel = (family: string) => (batch: string) =>
      plain('lowbit.matmul', { m, k, residual, batch, encoding }, family);
    const steps =
      encoding === 'bit-planes'
        ? lookUp(node, context, node.inputs[0]!, rowTables(k), kernel('lut'))
        : multiply(node, context, kernel('mad'));
    return residual ? inPlace(steps, node.inputs[5]!) : steps;
  };
}

/** The shape that kernels of all families share. */
type GroupFacts = Omit<GroupShape, 'batch'>;

/** How `quantize.group` writes integers, by their dtype. */
const activationsOf = (node: Node, dtype: string): GroupShape['to'] =>
  dtype === 'i16' ? 'int16' : node.attrs.byteSums === true ? 'sums' : 'int8';

/** The product by lookups, where options say in which tables; `q` and `weight` are names. */
function groupLookUp(
  node: Node,
  context: Context,
  shape: GroupFacts,
  q: string,
  weight: string,
): readonly Step[] {
  const { k, activationGroup, to } = shape;
  const { tablesOf = {} } = context.options;
  const tables = tablesOf[weight] ?? context.options.tables ?? 'exact';
  const family = tables === 'bits' ? 'popcount' : 'lut';
  return lookUp(node, context, q, { k, activationGroup, to, tables }, (batch) =>
    plain('lowbit.matmul.group', { ...shape, tables, batch }, family),
  );
}

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
    const common: GroupFacts = {
      m: m!,
      k: k!,
      bits: codeBits(weight.type.dtype)!,
      group: Number(attr(node, 'group')),
      activationGroup: Number(attr(node, 'activationGroup')),
      zero: Number(attr(node, 'zero')),
      zeros: (zeros?.type.dtype ?? 'none') as GroupShape['zeros'],
      scales: scales.type.dtype as GroupShape['scales'],
      to: activationsOf(node, typeOf(q, context).dtype),
      residual,
      encoding: weight.encoding!,
    };
    const mad = (batch: string) => plain('lowbit.matmul.group', { ...common, batch }, 'mad');
    const steps =
      common.encoding === 'bit-planes'
        ? groupLookUp(node, context, common, q, weight.name)
        : multiply(node, context, mad);
    return residual ? inPlace(steps, node.inputs[5]!) : steps;
  };
}

function blockMatmul(residual: boolean): Lowering {
  return (node, context) => {
    const constants = node.inputs.map((name) => context.constants.get(name));
    const [weight] = constants.slice(3);
    const [scaleCodes, , zeroCodes] = constants.slice(residual ? 6 : 5);
    if (weight === undefined || scaleCodes === undefined) {
      throw new LutraError('internal', `plan: the weight of ${node.outputs[0]?.name} must be a constant`);
    }
    const [m, k] = weight.type.shape as readonly number[];
    const shape: Omit<BlockShape, 'batch'> = {
      m: m!,
      k: k!,
      bits: codeBits(weight.type.dtype)!,
      group: Number(attr(node, 'group')),
      block: Number(attr(node, 'block')),
      zero: Number(attr(node, 'zero')),
      scaleCodes: scaleCodes.type.dtype as BlockShape['scaleCodes'],
      zeroCodes: (zeroCodes?.type.dtype ?? 'none') as BlockShape['zeroCodes'],
      to: typeOf(node.inputs[0]!, context).dtype === 'i16' ? 'int16' : 'int8',
      residual,
      encoding: weight.encoding!,
    };
    const kernel = (batch: string) => plain('lowbit.matmul.blocks', { ...shape, batch }, 'mad');
    const steps = multiply(node, context, kernel);
    return residual ? inPlace(steps, node.inputs[5]!) : steps;
  };
}

/** Quantization by groups of columns; the order of these is an input more. */
const quantizeGroup = (inputs: number): Lowering =>
  rowWise((node, k) => ({ ...(node.attrs as StepKernel['shape']), k, ordered: node.inputs.length > inputs }));

const weightOf = (constant: string, region: number): Operand => ({ kind: 'weight', constant, region });

/** A table of `matmul`: [m, k]. */
function tableOf(
  name: string,
  { constants }: Context,
): Constant & { readonly m: number; readonly k: number } {
  const table = constants.get(name);
  const [m, k] = table?.type.shape ?? [];
  if (table === undefined || typeof m !== 'number' || typeof k !== 'number') {
    throw new LutraError('internal', 'plan: the table of matmul must be a constant');
  }
  return { ...table, m, k };
}

/** The format of `int4-g64` or `int6-g64-scan`; undefined for other encodings. */
function groupedFormat(encoding: string | undefined): { bits: 4 | 6; group: 32 | 64 } | undefined {
  const [, bits, group] = /^int([46])-g(32|64)(?:-scan)?$/.exec(encoding ?? '') ?? [];
  return bits === undefined ? undefined : { bits: Number(bits) as 4 | 6, group: Number(group) as 32 | 64 };
}

/** A matmul by a table of few bits: activations first become integers. With `high`, it gives bounds. */
function groupedSteps(node: Node, table: ReturnType<typeof tableOf>, bounds: boolean): readonly Step[] {
  const { m, k, encoding } = table;
  const format = groupedFormat(encoding)!;
  const [x, out] = [node.inputs[0]!, node.outputs[0]!];
  // Rounding weights to 4 or 6 bits costs more than rounding activations to 8; in a bound both count.
  const planes = bounds ? 2 : 1;
  const groups = alignUp(k, ROW_PAD) / format.group;
  const [rows] = out.type.shape;
  const define = (name: string, dtype: 'i8' | 'f32' | 'i32', width: number) => ({
    name: `${out.name}.${name}`,
    type: { dtype, shape: [rows!, width] },
  });
  const defines = [
    define('q', 'i8', planes * alignUp(k, ROW_PAD)),
    define('factor', 'f32', groups),
    define('sum', 'i32', groups),
    ...(bounds ? [define('norm', 'f32', 2)] : []),
  ];
  const values = defines.map(({ name }): Operand => ({ kind: 'value', name }));
  const { group } = format;
  const where = rowsOf(out.type);
  return [
    {
      rows: where,
      kernel: plain('matmul.quantize', { k, group, planes, norms: bounds }),
      operands: [{ kind: 'value', name: x }, ...values],
      scalars: ['n'],
      defines,
    },
    {
      rows: where,
      kernel: plain('matmul', { m, k, ...format, planes, bounds }, 'grouped'),
      operands: [
        ...values,
        weightOf(table.name, 0),
        ...(bounds ? [weightOf(table.name, 1)] : []),
        { kind: 'value', name: out.name },
        ...(bounds ? [{ kind: 'high' } as const] : []),
      ],
      scalars: ['n'],
      defines: bounds ? [] : [out],
    },
  ];
}

/** A matmul by rows of int8: activations first become integers of 15 bits. */
function int8Steps(node: Node, { name, m, k }: ReturnType<typeof tableOf>): readonly Step[] {
  const [x, out] = [node.inputs[0]!, node.outputs[0]!];
  const [rows] = out.type.shape;
  const define = (value: string, dtype: 'i16' | 'f32', ...shape: number[]) => ({
    name: `${out.name}.${value}`,
    type: { dtype, shape: [rows!, ...shape] },
  });
  const defines = [define('q', 'i16', k), define('unit', 'f32')];
  const values = defines.map((value): Operand => ({ kind: 'value', name: value.name }));
  const where = rowsOf(out.type);
  return [
    {
      rows: where,
      kernel: plain('matmul.quantize', { k }, 'int16'),
      operands: [{ kind: 'value', name: x }, ...values],
      scalars: ['n'],
      defines,
    },
    {
      rows: where,
      kernel: plain('matmul', { m, k, elem: 'i8' }, 'int8'),
      operands: [...values, weightOf(name, 0), weightOf(name, 1), { kind: 'value', name: out.name }],
      scalars: ['n'],
      defines: [out],
    },
  ];
}

const matmul: Lowering = (node, context) => {
  const table = tableOf(node.inputs[1]!, context);
  if (groupedFormat(table.encoding) !== undefined) return groupedSteps(node, table, false);
  if (table.encoding === 'int8-rows') return int8Steps(node, table);
  const { m, k } = table;
  return [simpleStep(node, context, plain('matmul', { m, k, elem: table.type.dtype }))];
};

/**
 * The head's bounds by the table of few bits, or its products by the stored one; and, in a step of their own, the
 * single products of the stored table that the bounds leave open.
 */
const matmulScanned: Lowering = (node, context) => {
  const table = tableOf(node.inputs[1]!, context);
  const scan = groupedSteps(node, tableOf(node.inputs[2]!, context), true);
  const [stored] = matmul({ ...node, inputs: node.inputs.slice(0, 2) }, context);
  const [x, weight, out] = stored!.operands;
  const rescore: Step = {
    rows: 'pairs',
    kernel: plain('matmul.rows', { k: table.k, elem: table.type.dtype }),
    operands: [x!, weight!, { kind: 'tokens' }, out!],
    scalars: ['n'],
    defines: [],
  };
  return [...scan.map((step): Step => ({ ...step, when: 'scan' })), { ...stored!, when: 'stored' }, rescore];
};

const attentionPacked: Lowering = (node, context) => {
  const { context: positions, cacheElem } = context.options;
  const layer = Number(attr(node, 'layer'));
  const heads = Number(attr(node, 'heads'));
  const kvHeads = Number(attr(node, 'kvHeads'));
  const headDim = Number(attr(node, 'headDim'));
  // A window that holds all positions is none.
  const size = Number(node.attrs.window ?? 0);
  const window = size > 0 && size < positions ? { window: size } : {};
  const [output] = node.outputs;
  const query = { name: `${output!.name}.query`, type: output!.type };
  const shape = { heads, kvHeads, headDim, context: positions, cacheElem };
  const seen = { ...shape, ...window };
  const [rows] = output!.type.shape;
  const parts = {
    name: `${output!.name}.parts`,
    type: { dtype: 'f32' as const, shape: [rows!, partsSize(seen)] },
    few: true,
  };
  const value = (name: string): Operand => ({ kind: 'value', name });
  const cache = cacheParts(shape).map(([part]): Operand => ({ kind: 'cache', layer, part }));
  return [
    {
      rows: 'sequences',
      kernel: plain('rope.store', { ...shape, style: attr(node, 'style') }),
      operands: [
        operand(node.inputs[0]!, context),
        operand(node.inputs[1]!, context),
        { kind: 'value', name: query.name },
        ...cache,
      ],
      scalars: ['n', 'pos'],
      defines: [query],
    },
    {
      rows: 'sequences',
      kernel: plain('attention', seen),
      single: plain('attention.parts', seen),
      operands: [value(query.name), ...cache, value(parts.name), value(output!.name)],
      singleArguments: { operands: [value(query.name), ...cache, value(parts.name)], scalars: ['pos'] },
      scalars: ['n', 'pos', 'apart'],
      defines: [parts, output!],
    },
    {
      rows: 'sequences',
      kernel: plain('attention.merge', seen),
      operands: [value(parts.name), value(output!.name)],
      scalars: ['n', 'pos'],
      defines: [],
      merges: true,
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
    return [simpleStep(node, context, plain('gate.packed', { k, act: attr(node, 'act') }))];
  },
  add: rowWise((_, k) => ({ k })),
  columns: (node, context) => {
    const [a = 0, b = 0, c = 0] = node.inputs.map((name) => lastDim(typeOf(name, context)));
    return [simpleStep(node, context, plain('columns', { a, b, c }))];
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
    return [simpleStep(node, context, plain('rmsNorm.heads', shape))];
  },
  selectOutputs: (node, context) => {
    const k = lastDim(node.outputs[0]!.type);
    const step = simpleStep(node, context, plain('selectOutputs', { k }), { scalars: ['tokens'] });
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
