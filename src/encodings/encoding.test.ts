import { describe, expect, it } from 'vitest';
import type { Constant, GroupSource } from '../graph/ir.ts';
import { tensor } from '../graph/types.ts';
import { bf16Tensor, f32Tensor, memoryCheckpoint, randomPacked, randomValues } from '../models/testing.ts';
import { exactValues } from '../models/weights.ts';
import { encodeConstant, encodedBytes, encodingNamed, matrixOf } from './encoding.ts';

const checkpoint = memoryCheckpoint({
  trits: randomPacked(12, 50, 1),
  masters: bf16Tensor([7, 50], randomValues(350, 2)),
  table: bf16Tensor([9, 70], randomValues(630, 3)),
  norm: f32Tensor([70], randomValues(70, 4)),
});

const CONSTANTS: readonly Constant[] = [
  {
    name: 'ternary',
    type: tensor('ternary', 19, 50),
    source: {
      kind: 'concat',
      parts: [
        { kind: 'packed-ternary', tensor: 'trits' },
        { kind: 'absmean-ternary', tensor: 'masters' },
      ],
    },
    encoding: 'i2',
  },
  {
    name: 'ternary in planes',
    type: tensor('ternary', 12, 50),
    source: { kind: 'packed-ternary', tensor: 'trits' },
    encoding: 'bit-planes',
  },
  {
    name: 'table',
    type: tensor('bf16', 9, 70),
    source: { kind: 'tensor', tensor: 'table' },
    encoding: 'padded-rows',
  },
  {
    name: 'vector',
    type: tensor('f32', 70),
    source: { kind: 'tensor', tensor: 'norm' },
    encoding: 'padded-rows',
  },
  {
    name: 'rope',
    type: tensor('f32', 5, 6),
    source: { kind: 'rope-table', theta: 100, headDim: 6, positions: 5 },
    encoding: 'rows',
  },
];

const ROUNDED: GroupSource = { format: 'round', tensor: 'masters', bits: 3, group: 32, symmetric: false };

const OF_GROUPS: readonly Constant[] = [
  {
    name: 'codes',
    type: tensor('u3', 14, 50),
    source: { kind: 'concat', parts: Array(2).fill({ kind: 'codes', of: ROUNDED }) },
    encoding: 'code-tiles',
  },
  {
    name: 'scales',
    type: tensor('f16', 7, 2),
    source: { kind: 'scales', of: ROUNDED },
    encoding: 'group-lanes',
  },
  {
    name: 'scales in f32',
    type: tensor('f32', 7, 2),
    source: { kind: 'scales', of: ROUNDED },
    encoding: 'group-lanes',
  },
  {
    name: 'zeros',
    type: tensor('u8', 14, 2),
    source: { kind: 'concat', parts: Array(2).fill({ kind: 'zeros', of: ROUNDED }) },
    encoding: 'group-lanes',
  },
  {
    name: 'scales of 4 bits',
    type: tensor('u4', 3, 4),
    source: { kind: 'data', values: [1, 15, 0, 7, 9, 2, 3, 4, 5, 6, 8, 10] },
    encoding: 'group-lanes',
  },
  {
    name: 'scales with a sign',
    type: tensor('i8', 2, 3),
    source: { kind: 'data', values: [-128, 127, -1, 0, 5, -77] },
    encoding: 'group-lanes',
  },
  {
    name: 'order',
    type: tensor('i32', 5),
    source: { kind: 'data', values: [4, 2, 0, 3, 1] },
    encoding: 'rows',
  },
];

describe('encodeConstant', () => {
  it.each([...CONSTANTS, ...OF_GROUPS])('packs $name as its encoding says', async (constant) => {
    const regions = await encodeConstant(constant, checkpoint);
    expect(regions.map((region) => region.length)).toEqual(encodedBytes(constant));
    const unpacked = encodingNamed(constant.encoding!).unpack(regions, matrixOf(constant));
    expect([...unpacked]).toEqual([...(await exactValues(constant, checkpoint))].map(Math.fround));
  });

  it('packs a head in int8 rows, close to the table', async () => {
    const head: Constant = { ...CONSTANTS[2]!, encoding: 'int8-rows' };
    const regions = await encodeConstant(head, checkpoint);
    expect(regions.map((region) => region.length)).toEqual([9 * 128, 64 * 4]);
    expect(encodedBytes(head)).toEqual([9 * 128, 64 * 4]);
    const unpacked = encodingNamed('int8-rows').unpack(regions, matrixOf(head));
    const values = await exactValues(head, checkpoint);
    for (const [i, value] of unpacked.entries()) expect(Math.abs(value - values[i]!)).toBeLessThan(0.5 / 126);
  });

  it('refuses an unknown encoding by name, one that cannot hold the weight, and none', async () => {
    const [ternary, , table] = CONSTANTS as readonly [Constant, Constant, Constant];
    await expect(encodeConstant({ ...table, encoding: 'zip' }, checkpoint)).rejects.toMatchObject({
      code: 'unsupported',
      message: 'no encoding is called zip',
      hint: expect.stringContaining('int4-g64, int4-g64-scan, '),
    });
    await expect(encodeConstant({ ...table, encoding: 'i2' }, checkpoint)).rejects.toThrow(
      'i2 holds ternary weights, not bf16',
    );
    await expect(encodeConstant({ ...ternary, encoding: 'int8-rows' }, checkpoint)).rejects.toThrow(
      'int8-rows holds floats, not ternary weights',
    );
    expect(() => encodedBytes({ ...ternary, encoding: 'padded-rows' })).toThrow(
      'padded-rows holds floats, not ternary',
    );
    await expect(encodeConstant({ ...ternary, encoding: 'code-tiles' }, checkpoint)).rejects.toThrow(
      'code-tiles holds codes, not ternary weights',
    );
    expect(() => encodedBytes({ ...table, encoding: 'code-tiles' })).toThrow(
      'code-tiles holds codes, not bf16',
    );
    const { encoding: _, ...bare } = table;
    expect(() => encodedBytes(bare)).toThrow('constant table has no encoding');
  });
});
