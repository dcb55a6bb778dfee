import { describe, expect, it } from 'vitest';
import type { Constant } from '../graph/ir.ts';
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

describe('encodeConstant', () => {
  it.each(CONSTANTS)('packs $name as its encoding says', async (constant) => {
    const regions = await encodeConstant(constant, checkpoint);
    expect(regions.map((region) => region.length)).toEqual(encodedBytes(constant));
    const unpacked = encodingNamed(constant.encoding!).unpack(regions, matrixOf(constant));
    expect([...unpacked]).toEqual([...(await exactValues(constant, checkpoint))].map(Math.fround));
  });

  it('packs a head in int8 rows, close to the table', async () => {
    const head: Constant = { ...CONSTANTS[1]!, encoding: 'int8-rows' };
    const regions = await encodeConstant(head, checkpoint);
    expect(regions.map((region) => region.length)).toEqual([9 * 128, 64 * 4]);
    expect(encodedBytes(head)).toEqual([9 * 128, 64 * 4]);
    const unpacked = encodingNamed('int8-rows').unpack(regions, matrixOf(head));
    const values = await exactValues(head, checkpoint);
    for (const [i, value] of unpacked.entries()) expect(Math.abs(value - values[i]!)).toBeLessThan(0.5 / 126);
  });

  it('refuses an unknown encoding by name, one that cannot hold the weight, and none', async () => {
    const [ternary, table] = CONSTANTS as readonly [Constant, Constant];
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
    const { encoding: _, ...bare } = table;
    expect(() => encodedBytes(bare)).toThrow('constant table has no encoding');
  });
});
