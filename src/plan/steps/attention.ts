import { partsSize } from '../../kernels/attention/parts.ts';
import { cacheParts } from '../../kernels/cache.ts';
import { attr, kernelOf, type Lowering, type Operand, operand, valueNamed } from './step.ts';

/**
 * Rope and the storing of keys and values, attention, and the merging of its parts, where a call of several tokens or one
 * leaves parts.
 */
export const attentionPacked: Lowering = (node, context) => {
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
  const cache = cacheParts(shape).map(([part]): Operand => ({ kind: 'cache', layer, part }));
  return [
    {
      rows: 'sequences',
      kernel: kernelOf('rope.store', { ...shape, style: attr(node, 'style') }),
      operands: [
        operand(node.inputs[0]!, context),
        operand(node.inputs[1]!, context),
        valueNamed(query.name),
        ...cache,
      ],
      scalars: ['n', 'pos'],
      defines: [query],
    },
    {
      rows: 'sequences',
      kernel: kernelOf('attention', seen),
      single: kernelOf('attention.parts', seen),
      operands: [valueNamed(query.name), ...cache, valueNamed(parts.name), valueNamed(output!.name)],
      singleArguments: {
        operands: [valueNamed(query.name), ...cache, valueNamed(parts.name)],
        scalars: ['pos'],
      },
      scalars: ['n', 'pos', 'apart'],
      defines: [parts, output!],
    },
    {
      rows: 'sequences',
      kernel: kernelOf('attention.merge', seen),
      operands: [valueNamed(parts.name), valueNamed(output!.name)],
      scalars: ['n', 'pos'],
      defines: [],
      merges: true,
    },
  ];
};
