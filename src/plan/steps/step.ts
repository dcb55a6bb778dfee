/** The kernel calls that nodes become, and what lowering nodes to them takes. */
import { LutraError } from '../../common/errors.ts';
import type { Constant, Node, TensorType, Value } from '../../graph/ir.ts';
import type { CachePart } from '../../kernels/cache.ts';
import type { PlanOptions, ShapeValue } from '../types.ts';

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

/** What a node is lowered with. */
export interface Context {
  readonly constants: ReadonlyMap<string, Constant>;
  readonly types: ReadonlyMap<string, TensorType>;
  readonly options: PlanOptions;
}

/** How the nodes of an operator become kernel calls. */
export type Lowering = (node: Node, context: Context) => readonly Step[];

/** Elements of a row. */
export function lastDim(type: TensorType): number {
  const size = type.shape.at(-1);
  if (typeof size !== 'number') {
    throw new LutraError('internal', 'plan: the last axis of an activation must have a fixed size');
  }
  return size;
}

/** Which rows a value has. */
export function rowsOf(type: TensorType): 'tokens' | 'outputs' {
  return type.shape[0] === 'outputs' ? 'outputs' : 'tokens';
}

export function typeOf(name: string, context: Context): TensorType {
  const type = context.types.get(name);
  if (type === undefined) throw new LutraError('internal', `plan: value ${name} has no type`);
  return type;
}

/** The constant's first region, or the value. */
export function operand(name: string, context: Context): Operand {
  return context.constants.has(name) ? { kind: 'weight', constant: name, region: 0 } : valueNamed(name);
}

/** An attribute that is part of a kernel's shape. */
export function attr(node: Node, name: string): ShapeValue {
  const value = node.attrs[name];
  if (value === undefined || typeof value === 'object') {
    throw new LutraError('internal', `plan: ${node.op} lacks attribute ${name}`);
  }
  return value;
}

/** A step whose buffers are the node's inputs, then its outputs. */
export function simpleStep(node: Node, context: Context, kernel: StepKernel, more: Partial<Step> = {}): Step {
  const [first] = node.outputs;
  if (first === undefined) throw new LutraError('internal', `plan: ${node.op} has no output`);
  return {
    rows: rowsOf(first.type),
    kernel,
    operands: [
      ...node.inputs.map((name) => operand(name, context)),
      ...node.outputs.map(({ name }) => valueNamed(name)),
    ],
    scalars: ['n'],
    defines: node.outputs,
    ...more,
  };
}

export const kernelOf = (op: string, shape: StepKernel['shape'], family = 'default'): StepKernel => ({
  op,
  family,
  shape,
});

export const valueNamed = (name: string): Operand => ({ kind: 'value', name });

/** A value between the steps of one node, `shape` a row. */
export function between(
  { outputs }: Node,
  name: string,
  dtype: TensorType['dtype'],
  ...shape: number[]
): Value {
  const { name: out, type } = outputs[0]!;
  return { name: `${out}.${name}`, type: { dtype, shape: [type.shape[0]!, ...shape] } };
}
