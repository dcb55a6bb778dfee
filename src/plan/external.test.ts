import { expect, test } from 'vitest';
import { parseGraph } from '../graph/parse.ts';
import type { Region } from '../graph/partition.ts';
import type { BufferParam, LoopFunction, ScalarParam } from '../loops/ir.ts';
import { externalKernels } from './external.ts';

const REGION: Region = {
  op: 'external.acme.0',
  codegen: 'acme',
  graph: parseGraph(`graph region {
    input in0: f32[tokens, 8]
    input in1: ternary[4, 8]
    v0: i8[tokens, 8], v1: f32[tokens], v2: i32[tokens] = quantize(in0)
    v3: f32[tokens, 4] = something(v0, v1, v2, in1)
    return v3
  }`),
};

const BUFFERS: readonly BufferParam[] = [
  { name: 'x', elem: 'f32', access: 'read' },
  { name: 'weight', elem: 'u8', access: 'read' },
  { name: 'out', elem: 'f32', access: 'write' },
];
const ROWS: readonly ScalarParam[] = [{ name: 'n', kind: 'i32' }];

function kernelOf(buffers: readonly BufferParam[], scalars: readonly ScalarParam[]): LoopFunction {
  const fn: LoopFunction = { name: 'any', buffers, scalars, locals: [], body: [] };
  const kernels = externalKernels([REGION], new Map([['acme', () => fn]]));
  const node = { op: REGION.op, inputs: ['x', 'w'], outputs: [], attrs: {} };
  return kernels.get(REGION.op)!(node, 'external_acme_0');
}

test('a function that fits its region becomes the kernel, under the name the plan chose', () => {
  expect(kernelOf(BUFFERS, ROWS)).toMatchObject({ name: 'external_acme_0', buffers: BUFFERS });
  const updating = BUFFERS.with(2, { ...BUFFERS[2]!, access: 'readwrite' });
  expect(kernelOf(updating, ROWS).buffers).toEqual(updating);
});

test.each<[string, readonly BufferParam[], readonly ScalarParam[]]>([
  [
    'for in1: ternary[4, 8]: expected read u8[], but it is w: read i8[]',
    BUFFERS.with(1, { name: 'w', elem: 'i8', access: 'read' }),
    ROWS,
  ],
  [
    'for in0: f32[tokens, 8]: expected read f32[], but it is x: write f32[]',
    BUFFERS.with(0, { ...BUFFERS[0]!, access: 'write' }),
    ROWS,
  ],
  ['for v3: f32[tokens, 4]: expected write f32[], but it is missing', BUFFERS.slice(0, 2), ROWS],
  ['takes 4 buffers and 1 scalars, but should take 3 buffers', [...BUFFERS, BUFFERS[0]!], ROWS],
  ['takes 3 buffers and 0 scalars', BUFFERS, []],
  ['takes 3 buffers and 1 scalars', BUFFERS, [{ name: 'n', kind: 'f32' }]],
])('%s', (message, buffers, scalars) => {
  expect(() => kernelOf(buffers, scalars)).toThrow(message);
});

test('a region whose generator is missing is refused', () => {
  expect(() => externalKernels([REGION], new Map())).toThrow('needs the outside code generator acme');
});
