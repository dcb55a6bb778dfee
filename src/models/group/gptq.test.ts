/** GPTQ and AWQ matrices, written here by what their formats say, bit by bit and not by our own packing. */
import { describe, expect, it } from 'vitest';
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { GroupSource } from '../../graph/ir.ts';
import { ReferenceExecutor } from '../../graph/reference.ts';
import { ReferenceCache } from '../../graph/step.ts';
import { importModel } from '../import.ts';
import { toF32 } from '../tensors.ts';
import { f32Tensor, type MemoryTensor, memoryCheckpoint, randomValues } from '../testing.ts';
import { exactValues } from '../weights.ts';
import { readCodes } from './group.ts';
import { column, f16, gptqModels, gptqTensors, i32, randomMatrix, valuesOf } from './testing.ts';

/** What a source says the weights are, columns where they were. */
async function readValues(source: GroupSource, tensors: Readonly<Record<string, MemoryTensor>>) {
  const { rows, cols, group, bits, codes, scales, zeros, order } = await readCodes(
    source,
    memoryCheckpoint(tensors),
  );
  const groups = Math.ceil(cols / group);
  const steps = toF32(scales);
  return Array.from({ length: rows }, (_, r) => {
    const row = new Array<number>(cols);
    for (let i = 0; i < cols; i++) {
      const at = r * groups + Math.floor(i / group);
      const zero = zeros instanceof Uint8Array ? zeros[at]! : 2 ** (bits - 1);
      row[order?.[i] ?? i] = (codes[r * cols + i]! - zero) * steps[at]!;
    }
    return row;
  });
}

const gptq = (fields: Partial<Extract<GroupSource, { format: 'gptq' }>>): GroupSource => ({
  format: 'gptq',
  tensor: 'w',
  bits: 4,
  group: 32,
  zeros: 'v1',
  ...fields,
});

describe('GPTQ', () => {
  it.each([2, 3, 4, 8] as const)('is read in %i bits, zeros of both versions', async (bits) => {
    const m = randomMatrix(bits, 96, 128, bits, 32);
    const v1 = await readValues(gptq({ bits }), gptqTensors('w', m, 1));
    expect(v1).toEqual(valuesOf(m));
    expect(await readValues(gptq({ bits, zeros: 'v2' }), gptqTensors('w', m, 0))).toEqual(valuesOf(m));
  });

  it('is read with a group for a whole row, and with columns out of order', async () => {
    const whole = randomMatrix(1, 32, 96, 3, 96);
    expect(await readValues(gptq({ bits: 3, group: 96 }), gptqTensors('w', whole, 1))).toEqual(
      valuesOf(whole),
    );
    const shuffled = randomMatrix(2, 32, 96, 4, 32, true);
    const tensors = gptqTensors('w', shuffled, 1);
    expect(await readValues(gptq({ order: 'w' }), tensors)).toEqual(valuesOf(shuffled));
    await expect(readValues(gptq({}), tensors)).rejects.toThrow('w.g_idx is not in order');
    const uneven = { ...tensors, 'w.g_idx': i32([96], new Int32Array(96)) };
    await expect(readValues(gptq({ order: 'w' }), uneven)).rejects.toThrow(
      'does not say groups of 32 columns',
    );
    const wild = { ...tensors, 'w.g_idx': i32([96], new Int32Array(96).fill(-1)) };
    await expect(readValues(gptq({ order: 'w' }), wild)).rejects.toThrow('does not say groups');
  });

  it('takes symmetric zeros of either version for the middle, and refuses others', async () => {
    const random = randomMatrix(3, 32, 64, 4, 32);
    const m = { ...random, zeros: random.zeros.map((row) => row.map(() => 8)) };
    for (const less of [0, 1]) {
      expect(await readValues(gptq({ zeros: 'none' }), gptqTensors('w', m, less))).toEqual(valuesOf(m));
    }
    await expect(readValues(gptq({ zeros: 'none' }), gptqTensors('w', random, 1))).rejects.toMatchObject({
      code: 'invalid',
      message: expect.stringContaining('w.qzeros has zeros other than 8'),
    });
  });

  it('refuses tensors of other shapes by name', async () => {
    const tensors = gptqTensors('w', randomMatrix(4, 32, 64, 4, 32), 1);
    const { 'w.scales': _, ...without } = tensors;
    await expect(readValues(gptq({}), without)).rejects.toThrow('has no tensor w.scales');
    const short = { ...tensors, 'w.qzeros': i32([1, 4], new Int32Array(4)) };
    await expect(readValues(gptq({}), short)).rejects.toThrow('tensor w.qzeros is i32 [1, 4]');
  });
});

describe('AWQ', () => {
  it('is read in the order of its nibbles', async () => {
    const m = randomMatrix(5, 64, 96, 4, 32);
    // Each word has 8 rows of one column: nibble i is row [0, 2, 4, 6, 1, 3, 5, 7][i].
    const pack = (values: readonly number[]) =>
      Array.from({ length: values.length / 8 }, (_, w) =>
        [0, 2, 4, 6, 1, 3, 5, 7].reduce((word, row, i) => word + values[8 * w + row]! * 16 ** i, 0),
      );
    const range = (count: number) => Array.from({ length: count }, (_, i) => i);
    const tensors = {
      'w.qweight': i32([96, 8], Uint32Array.from(range(96).flatMap((k) => pack(column(m.codes, k))))),
      'w.qzeros': i32([3, 8], Uint32Array.from(range(3).flatMap((g) => pack(column(m.zeros, g))))),
      'w.scales': f16(
        [3, 64],
        range(3).flatMap((g) => column(m.scales, g)),
      ),
    };
    const source = { format: 'awq', tensor: 'w', bits: 4, group: 32 } as const;
    expect(await readValues(source, tensors)).toEqual(valuesOf(m));
  });
});

describe('a Llama by GPTQ', () => {
  it.each([
    [4, false],
    [3, false],
    [4, true],
  ])('of %i bits, columns sorted: %s, computes what its weights in floats do', async (bits, shuffled) => {
    const [coded, floats] = await Promise.all(
      gptqModels(bits, shuffled).map(async (checkpoint) => {
        const { graph } = importModel(checkpoint);
        const model = await ReferenceExecutor.create(graph, (constant) => exactValues(constant, checkpoint));
        const cache = new ReferenceCache();
        return model.forward(Int32Array.of(3, 1, 4, 1), { position: 0, logits: 'all', cache });
      }),
    );
    const size = Math.sqrt(floats!.reduce((sum, x) => sum + x * x, 0) / floats!.length);
    for (const [i, x] of floats!.entries()) expect(Math.abs(coded![i]! - x)).toBeLessThan(2e-3 * size);
  });

  it('takes biases that the files have', async () => {
    const [coded, floats] = gptqModels(4, false);
    const biases = Object.fromEntries(
      [...floats!.tensors].flatMap(([name, { shape }], i) =>
        name.endsWith('_proj.weight')
          ? [[name.replace('weight', 'bias'), f32Tensor([shape[0]!], randomValues(shape[0]!, 900 + i))]]
          : [],
      ),
    );
    const withBiases = (checkpoint: Checkpoint, config: Checkpoint['config']): Checkpoint => {
      const extra = memoryCheckpoint(biases);
      return {
        ...checkpoint,
        config: { ...checkpoint.config, ...config },
        tensors: new Map([...checkpoint.tensors, ...extra.tensors]),
        read: (name) => (extra.tensors.has(name) ? extra : checkpoint).read(name),
      };
    };
    const logits = async (checkpoint: Checkpoint) => {
      const { graph } = importModel(checkpoint);
      const model = await ReferenceExecutor.create(graph, (constant) => exactValues(constant, checkpoint));
      return model.forward(Int32Array.of(3, 1, 4), {
        position: 0,
        logits: 'all',
        cache: new ReferenceCache(),
      });
    };
    const found = await logits(withBiases(coded!, {}));
    const expected = await logits(withBiases(floats!, { attention_bias: true, mlp_bias: true }));
    const size = Math.sqrt(expected.reduce((sum, x) => sum + x * x, 0) / expected.length);
    for (const [i, x] of expected.entries()) expect(Math.abs(found[i]! - x)).toBeLessThan(2e-3 * size);
    expect(found).not.toEqual(await logits(coded!));
  });

  it('is read from a quantize_config.json of its own', () => {
    const [coded] = gptqModels(4, false);
    const { quantization_config: found, ...config } = coded!.config;
    const { quant_method: _, ...apart } = found as Record<string, unknown>;
    const textFiles = new Map([['quantize_config.json', JSON.stringify(apart)]]);
    expect(importModel({ ...coded!, config, textFiles }).info.quantization).toMatchObject({
      form: 'groups',
      format: 'gptq',
      bits: 4,
      group: 32,
      symmetric: false,
    });
  });

  it.each([
    [{ bits: 5 }, 'bits 5 is not supported'],
    [{ group_size: 20 }, 'group_size 20 is not supported'],
    [{ checkpoint_format: 'marlin' }, 'checkpoint_format "marlin" is not supported'],
    [{ lm_head: true }, 'a quantized lm_head is not supported'],
    [{ dynamic: { x: {} } }, 'bits that differ from layer to layer'],
    [{ quant_method: 'awq', version: 'gemv' }, 'AWQ of version gemv is not supported'],
  ])('refuses %j', (change, message) => {
    const [coded] = gptqModels(4, false);
    const found = coded!.config.quantization_config as Record<string, unknown>;
    const config = { ...coded!.config, quantization_config: { ...found, ...change } };
    expect(() => importModel({ ...coded!, config })).toThrow(message);
  });
});
