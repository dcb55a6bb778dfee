import { describe, expect, it } from 'vitest';
import type { Constant, WeightSource } from '../graph/ir.ts';
import { tensor } from '../graph/types.ts';
import { bf16Tensor, f32Tensor, memoryCheckpoint, randomPacked, randomValues, u8Tensor } from './testing.ts';
import { exactValues, materialize } from './weights.ts';

const constant = (type: Constant['type'], source: WeightSource): Constant => ({ name: 'c', type, source });

/** The example of transformers' `unpack_weights`. */
const PACKED = u8Tensor([2, 2], [0b10100001, 0b00011000, 0b10010000, 0b00001010]);
const UNPACKED = [0, -1, -1, 1, -1, 1, -1, 1, 1, 0, 0, -1, 1, -1, 1, -1];

describe('ternary sources', () => {
  it('unpacks as transformers documents it', async () => {
    const checkpoint = memoryCheckpoint({ w: PACKED });
    const c = constant(tensor('ternary', 8, 2), { kind: 'packed-ternary', tensor: 'w' });
    expect([...(await exactValues(c, checkpoint))]).toEqual(UNPACKED);
  });

  it('keeps the blocks of a concatenation as the checkpoint has them', async () => {
    const checkpoint = memoryCheckpoint({ a: PACKED, b: bf16Tensor([3, 2], [3, -3, 1, -1, 0.5, 0]) });
    const c = constant(tensor('ternary', 11, 2), {
      kind: 'concat',
      parts: [
        { kind: 'packed-ternary', tensor: 'a' },
        { kind: 'absmean-ternary', tensor: 'b' },
      ],
    });
    const weight = await materialize(c, checkpoint);
    expect(weight.kind === 'ternary' && weight.blocks.map(({ form, rows }) => [form, rows])).toEqual([
      ['packed', 8],
      ['trits', 3],
    ]);
    // mean|w| = 8.5 / 6: 1 and -1 are above half of it, 0.5 is below.
    expect([...(await exactValues(c, checkpoint))]).toEqual([...UNPACKED, 1, -1, 1, -1, 0, 0]);
  });

  it('rounds ties to zero: |w| of half the mean', async () => {
    const values = [0.25, -0.25, 0.75, -0.75, 0.5, -0.5, 0.5, 0.5]; // mean 0.5
    const checkpoint = memoryCheckpoint({ a: bf16Tensor([4, 2], values), b: f32Tensor([4, 2], values) });
    for (const name of ['a', 'b']) {
      const c = constant(tensor('ternary', 4, 2), { kind: 'absmean-ternary', tensor: name });
      expect([...(await exactValues(c, checkpoint))]).toEqual([0, 0, 1, -1, 1, -1, 1, 1]);
      const scale = constant(tensor('f32', 4), { kind: 'absmean-scale', tensor: name, rows: 4 });
      expect([...(await exactValues(scale, checkpoint))]).toEqual([0.5, 0.5, 0.5, 0.5]);
    }
  });

  it('quantizes f32, f16 and bf16 alike where they hold the same values', async () => {
    const values = randomValues(600, 5, 0.1);
    const bf16 = bf16Tensor([20, 30], values);
    const same = new Float32Array(
      Uint32Array.from(new Uint16Array(bf16.bytes.buffer), (b) => b << 16).buffer,
    );
    const checkpoint = memoryCheckpoint({ a: bf16, b: f32Tensor([20, 30], same) });
    const [a, b] = await Promise.all(
      ['a', 'b'].map((name) =>
        exactValues(
          constant(tensor('ternary', 20, 30), { kind: 'absmean-ternary', tensor: name }),
          checkpoint,
        ),
      ),
    );
    expect(a).toEqual(b);
    expect(new Set(a)).toEqual(new Set([-1, 0, 1]));
  });

  it('quantizes weights that are all zero to zeros with the smallest scale', async () => {
    const checkpoint = memoryCheckpoint({ w: bf16Tensor([2, 2], [0, 0, 0, 0]) });
    const trits = constant(tensor('ternary', 2, 2), { kind: 'absmean-ternary', tensor: 'w' });
    expect([...(await exactValues(trits, checkpoint))]).toEqual([0, 0, 0, 0]);
    const scale = constant(tensor('f32', 2), { kind: 'absmean-scale', tensor: 'w', rows: 2 });
    expect([...(await exactValues(scale, checkpoint))]).toEqual([1e-5, 1e-5]);
  });
});

describe('float sources', () => {
  it('gives tables as stored, and vectors as f32', async () => {
    const checkpoint = memoryCheckpoint({ w: bf16Tensor([2, 3], [1, 2, 3, -4, 0.5, 0]) });
    const table = await materialize(
      constant(tensor('bf16', 2, 3), { kind: 'tensor', tensor: 'w' }),
      checkpoint,
    );
    expect(table.kind === 'float' && table.stored.dtype).toBe('bf16');
    const wide = await materialize(
      constant(tensor('f32', 2, 3), { kind: 'tensor', tensor: 'w' }),
      checkpoint,
    );
    expect(wide).toEqual({
      kind: 'float',
      stored: { dtype: 'f32', values: Float32Array.of(1, 2, 3, -4, 0.5, 0) },
    });
    const f16 = await materialize(constant(tensor('f16', 2, 3), { kind: 'tensor', tensor: 'w' }), checkpoint);
    expect(f16).toEqual({
      kind: 'float',
      stored: { dtype: 'f16', bits: Uint16Array.of(0x3c00, 0x4000, 0x4200, 0xc400, 0x3800, 0) },
    });
  });

  it('applies scales in either direction and joins them', async () => {
    const checkpoint = memoryCheckpoint({ a: bf16Tensor([1], [0.25]), b: f32Tensor([], [8]) });
    const c = constant(tensor('f32', 5), {
      kind: 'concat',
      parts: [
        { kind: 'scale', tensor: 'a', direction: 'multiply', rows: 2 },
        { kind: 'scale', tensor: 'b', direction: 'divide', rows: 3 },
      ],
    });
    expect([...(await exactValues(c, checkpoint))]).toEqual([0.25, 0.25, 0.125, 0.125, 0.125]);
  });

  it('computes rotation tables', async () => {
    const source: WeightSource = { kind: 'rope-table', theta: 10000, headDim: 4, positions: 3 };
    const table = await exactValues(constant(tensor('f32', 3, 4), source), memoryCheckpoint({}));
    const expected = [0, 1, 2].flatMap((p) => [
      Math.cos(p),
      Math.cos(p / 100),
      Math.sin(p),
      Math.sin(p / 100),
    ]);
    for (const [i, value] of expected.entries()) expect(table[i]).toBeCloseTo(value, 14);
    const { stored } = (await materialize(constant(tensor('f32', 3, 4), source), memoryCheckpoint({}))) as {
      stored: unknown;
    };
    expect(stored).toEqual({ dtype: 'f32', values: Float32Array.from(table) });
  });
});

describe('refusals', () => {
  const ternary = (rows: number, cols: number) =>
    constant(tensor('ternary', rows, cols), { kind: 'packed-ternary', tensor: 'layer.weight' });
  const scale = (direction: 'multiply' | 'divide') =>
    constant(tensor('f32', 4), { kind: 'scale', tensor: 'layer.weight_scale', direction, rows: 4 });
  const withScale = (value: number) => memoryCheckpoint({ 'layer.weight_scale': f32Tensor([1], [value]) });

  it('names a missing tensor and what it should be', async () => {
    await expect(materialize(ternary(8, 2), memoryCheckpoint({}))).rejects.toThrow(
      '/models/acme/test-model has no tensor layer.weight (u8 [2, 2])',
    );
  });

  it('names a tensor of another dtype or shape, with both', async () => {
    const floats = memoryCheckpoint({ 'layer.weight': f32Tensor([2, 2], [1, 2, 3, 4]) });
    await expect(materialize(ternary(8, 2), floats)).rejects.toThrow(
      'tensor layer.weight is f32 [2, 2], expected u8 [2, 2]',
    );
    const wide = memoryCheckpoint({ 'layer.weight': randomPacked(8, 3, 1) });
    await expect(materialize(ternary(8, 2), wide)).rejects.toThrow(
      'tensor layer.weight is u8 [2, 3], expected u8 [2, 2]',
    );
  });

  it('finds the code 3, wherever it is', async () => {
    for (const [bytes, at] of [
      [[0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0xd5], 7],
      [[0x55, 0x57, 0x55, 0x55], 1],
      [[0x55, 0x7d], 1],
    ] as const) {
      const checkpoint = memoryCheckpoint({ 'layer.weight': u8Tensor([1, bytes.length], bytes) });
      await expect(materialize(ternary(4, bytes.length), checkpoint)).rejects.toThrow(
        `tensor layer.weight: byte ${at} holds the code 3`,
      );
    }
    const straddling = memoryCheckpoint({ 'layer.weight': u8Tensor([1, 4], [0x6a, 0x9a, 0xa6, 0x95]) });
    await expect(materialize(ternary(4, 4), straddling)).resolves.toBeDefined();
  });

  it('refuses a concatenation of another height than the constant', async () => {
    const c = constant(tensor('ternary', 12, 2), {
      kind: 'concat',
      parts: [{ kind: 'packed-ternary', tensor: 'w' }],
    });
    await expect(materialize(c, memoryCheckpoint({ w: PACKED }))).rejects.toThrow(
      'constant c has 16 values in the checkpoint, expected 24',
    );
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY, 0, -1])('refuses the scale %d', async (value) => {
    await expect(materialize(scale('multiply'), withScale(value))).rejects.toThrow(
      `tensor layer.weight_scale is ${value}, expected a finite scale above 0`,
    );
  });

  it('refuses a scale applied in the wrong direction, and says how to turn it', async () => {
    await expect(materialize(scale('multiply'), withScale(50))).rejects.toMatchObject({
      code: 'invalid',
      message:
        'tensor layer.weight_scale is 50, but config.json says that outputs are multiplied by it, which no trained model does',
      hint: expect.stringContaining('linear_class in config.json to "bitlinear"'),
    });
    await expect(materialize(scale('divide'), withScale(1 / 64))).rejects.toMatchObject({
      hint: expect.stringContaining('"autobitlinear"'),
    });
  });

  it('takes the scales of trained models', async () => {
    for (const [direction, value] of [
      ['multiply', 4.59375],
      ['multiply', 0.01],
      ['divide', 100],
      ['divide', 0.5],
    ] as const) {
      await expect(materialize(scale(direction), withScale(value))).resolves.toBeDefined();
    }
  });

  it('refuses weights that are not finite', async () => {
    const checkpoint = memoryCheckpoint({ w: bf16Tensor([1, 2], [1, Number.NaN]) });
    const c = constant(tensor('ternary', 1, 2), { kind: 'absmean-ternary', tensor: 'w' });
    await expect(materialize(c, checkpoint)).rejects.toThrow('tensor w has weights that are not finite');
  });

  it('refuses a tensor whose bytes are cut short', async () => {
    const cut = memoryCheckpoint({ 'layer.weight': { ...PACKED, bytes: PACKED.bytes.slice(0, 3) } });
    await expect(materialize(ternary(8, 2), cut)).rejects.toThrow(
      'tensor layer.weight has 3 bytes, expected 4',
    );
  });
});
