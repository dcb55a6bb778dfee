/** Products by tables of floats: the output head, and layers of models in floats. */
import { LutraError } from '../../common/errors.ts';
import { alignUp } from '../../common/math.ts';
import type { Constant, Node } from '../../graph/ir.ts';
import { ROW_PAD } from '../../kernels/kernel.ts';
import {
  between,
  type Context,
  kernelOf,
  type Lowering,
  type Operand,
  rowsOf,
  type Step,
  simpleStep,
  valueNamed,
} from './step.ts';

const regionOf = (constant: string, region: number): Operand => ({ kind: 'weight', constant, region });

/** A table of `matmul`: [m, k]. */
type Table = Constant & { readonly m: number; readonly k: number };

function tableOf(name: string, { constants }: Context): Table {
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

/** A matmul by a table of few bits: activations first become integers. With `bounds`, it gives these. */
function groupedSteps(node: Node, table: Table, bounds: boolean): readonly Step[] {
  const { m, k, encoding } = table;
  const format = groupedFormat(encoding)!;
  const [x, out] = [node.inputs[0]!, node.outputs[0]!];
  // Rounding weights to 4 or 6 bits costs more than rounding activations to 8; in a bound both count.
  const planes = bounds ? 2 : 1;
  const groups = alignUp(k, ROW_PAD) / format.group;
  const defines = [
    between(node, 'q', 'i8', planes * alignUp(k, ROW_PAD)),
    between(node, 'factor', 'f32', groups),
    between(node, 'sum', 'i32', groups),
    ...(bounds ? [between(node, 'norm', 'f32', 2)] : []),
  ];
  const values = defines.map(({ name }) => valueNamed(name));
  const { group } = format;
  const where = rowsOf(out.type);
  return [
    {
      rows: where,
      kernel: kernelOf('matmul.quantize', { k, group, planes, norms: bounds }),
      operands: [valueNamed(x), ...values],
      scalars: ['n'],
      defines,
    },
    {
      rows: where,
      kernel: kernelOf('matmul', { m, k, ...format, planes, bounds }, 'grouped'),
      operands: [
        ...values,
        regionOf(table.name, 0),
        ...(bounds ? [regionOf(table.name, 1)] : []),
        valueNamed(out.name),
        ...(bounds ? [{ kind: 'high' } as const] : []),
      ],
      scalars: ['n'],
      defines: bounds ? [] : [out],
    },
  ];
}

/** A matmul by rows of int8: activations first become integers of 15 bits. */
function int8Steps(node: Node, { name, m, k }: Table): readonly Step[] {
  const [x, out] = [node.inputs[0]!, node.outputs[0]!];
  const defines = [between(node, 'q', 'i16', k), between(node, 'unit', 'f32')];
  const values = defines.map((value) => valueNamed(value.name));
  const where = rowsOf(out.type);
  return [
    {
      rows: where,
      kernel: kernelOf('matmul.quantize', { k }, 'int16'),
      operands: [valueNamed(x), ...values],
      scalars: ['n'],
      defines,
    },
    {
      rows: where,
      kernel: kernelOf('matmul', { m, k, elem: 'i8' }, 'int8'),
      operands: [...values, regionOf(name, 0), regionOf(name, 1), valueNamed(out.name)],
      scalars: ['n'],
      defines: [out],
    },
  ];
}

/** Products by a table of floats, in the form that its encoding gives it. */
export const matmul: Lowering = (node, context) => {
  const table = tableOf(node.inputs[1]!, context);
  if (groupedFormat(table.encoding) !== undefined) return groupedSteps(node, table, false);
  if (table.encoding === 'int8-rows') return int8Steps(node, table);
  const { m, k } = table;
  return [simpleStep(node, context, kernelOf('matmul', { m, k, elem: table.type.dtype }))];
};

/**
 * The head's bounds by the table of few bits, or its products by the stored one; and, in a step of their own, the
 * single products of the stored table that the bounds leave open.
 */
export const matmulScanned: Lowering = (node, context) => {
  const table = tableOf(node.inputs[1]!, context);
  const scan = groupedSteps(node, tableOf(node.inputs[2]!, context), true);
  const [stored] = matmul({ ...node, inputs: node.inputs.slice(0, 2) }, context);
  const [x, weight, out] = stored!.operands;
  const rescore: Step = {
    rows: 'pairs',
    kernel: kernelOf('matmul.rows', { k: table.k, elem: table.type.dtype }),
    operands: [x!, weight!, { kind: 'tokens' }, out!],
    scalars: ['n'],
    defines: [],
  };
  return [...scan.map((step): Step => ({ ...step, when: 'scan' })), { ...stored!, when: 'stored' }, rescore];
};
