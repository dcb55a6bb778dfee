/** Products by weights of few bits. */
import { LutraError } from '../../common/errors.ts';
import type { Node } from '../../graph/ir.ts';
import { codeBits } from '../../graph/types.ts';
import type { BlockShape, GroupShape } from '../../kernels/group/shape.ts';
import { rowTables } from '../../kernels/lowbit-lut.ts';
import { isBytes, type TablesShape, tableBytes } from '../../kernels/lut/tables.ts';
import {
  attr,
  between,
  type Context,
  kernelOf,
  type Lowering,
  rowsOf,
  type Step,
  type StepKernel,
  simpleStep,
  typeOf,
  valueNamed,
} from './step.ts';

/** The kernel of a product in batch `one` or `many`. */
type Product = (batch: string) => StepKernel;

/** The product, in either batch. */
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
  const defines = [
    between(node, 'tables', 'i8', tableBytes(form)),
    ...(isBytes(tables) ? [between(node, 'tableBias', 'i32', Math.ceil(k / activationGroup))] : []),
  ];
  const values = defines.map(({ name }) => valueNamed(name));
  const [step] = multiply(node, context, product);
  return [
    {
      rows: rowsOf(out.type),
      kernel: kernelOf('lut.tables', { ...form }),
      operands: [valueNamed(q), ...values],
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

/** Ternary weights: `lowbit.matmul`, and `.add` with a residual. */
export function lowbitMatmul(residual: boolean): Lowering {
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
      kernelOf('lowbit.matmul', { m, k, residual, batch, encoding }, family);
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
    kernelOf('lowbit.matmul.group', { ...shape, tables, batch }, family),
  );
}

/** Codes with a scale for every group of columns: `lowbit.matmul.group`, and `.add`. */
export function groupMatmul(residual: boolean): Lowering {
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
    const mad = (batch: string) => kernelOf('lowbit.matmul.group', { ...common, batch }, 'mad');
    const steps =
      common.encoding === 'bit-planes'
        ? groupLookUp(node, context, common, q, weight.name)
        : multiply(node, context, mad);
    return residual ? inPlace(steps, node.inputs[5]!) : steps;
  };
}

/** Codes whose groups have integers for scales: `lowbit.matmul.blocks`, and `.add`. */
export function blockMatmul(residual: boolean): Lowering {
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
    const kernel = (batch: string) => kernelOf('lowbit.matmul.blocks', { ...shape, batch }, 'mad');
    const steps = multiply(node, context, kernel);
    return residual ? inPlace(steps, node.inputs[5]!) : steps;
  };
}
