import { mkdtemp, readdir, readFile, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { StoredDType } from './checkpoint.ts';
import { openShard } from './shard.ts';
import { openFile } from './source.ts';
import { parseWeightIndex } from './weight-index.ts';
import { type TensorSource, tensorBytes, writeSafetensors } from './write.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lutra-write-'));
});
afterEach(() => rm(folder, { recursive: true }));

/** A tensor of recognizable bytes, given in pieces of `step`. */
function source(
  name: string,
  dtype: StoredDType,
  shape: number[],
  step = 5,
): TensorSource & { bytes: Uint8Array } {
  const bytes = Uint8Array.from(
    { length: tensorBytes({ dtype, shape }) },
    (_, i) => (i * 7 + name.length * 31 + 1) & 255,
  );
  return {
    name,
    dtype,
    shape,
    bytes,
    *chunks() {
      for (let at = 0; at < bytes.length; at += step) yield bytes.subarray(at, at + step);
    },
  };
}

async function readBack(
  file: string,
): Promise<Map<string, { dtype: string; shape: readonly number[]; bytes: Uint8Array }>> {
  const shard = await openShard(await openFile(join(folder, file)));
  const tensors = new Map();
  for (const entry of shard.entries.values()) {
    tensors.set(entry.name, { dtype: entry.dtype, shape: entry.shape, bytes: await shard.read(entry) });
  }
  await shard.close();
  return tensors;
}

test('one file, byte for byte', async () => {
  const tensors = [source('u', 'u8', [3]), source('f', 'f32', [1]), source('h', 'bf16', [1, 2])];
  await writeSafetensors(folder, tensors);
  const file = await readFile(join(folder, 'model.safetensors'));
  const length = file.readUInt32LE(0);
  expect(file.readUInt32LE(4)).toBe(0);
  expect((8 + length) % 8).toBe(0);
  expect(
    file
      .subarray(8, 8 + length)
      .toString()
      .trimEnd(),
  ).toBe(
    '{"__metadata__":{"format":"pt"},"f":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' +
      '"h":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]},"u":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}',
  );
  const [u, f, h] = tensors as [(typeof tensors)[0], (typeof tensors)[0], (typeof tensors)[0]];
  expect([...file.subarray(8 + length)]).toEqual([...f.bytes, ...h.bytes, ...u.bytes]);
  expect(await readdir(folder)).toEqual(['model.safetensors']);
});

test('what is written is read back the same, whatever the tensors', async () => {
  const tensor = fc.record({
    dtype: fc.constantFrom<StoredDType>('bf16', 'f16', 'f32', 'u8', 'i8', 'i32'),
    shape: fc.array(fc.nat(4), { maxLength: 3 }),
    step: fc.integer({ min: 1, max: 40 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.dictionary(fc.string(), tensor, { maxKeys: 6 }), async (specs) => {
      const tensors = Object.entries(specs)
        .filter(([name]) => name !== '__metadata__')
        .map(([name, { dtype, shape, step }]) => source(name, dtype, shape, step));
      await writeSafetensors(folder, tensors);
      const read = await readBack('model.safetensors');
      expect(read.size).toBe(tensors.length);
      for (const { name, dtype, shape, bytes } of tensors) {
        expect(read.get(name)).toEqual({ dtype: dtype.toUpperCase(), shape, bytes });
      }
    }),
    { seed: 3, numRuns: 60 },
  );
});

test('shards hold at most the given bytes and are listed in the index', async () => {
  const tensors = [
    source('a', 'u8', [6]),
    source('b', 'u8', [4]),
    source('c', 'u8', [50]),
    source('d', 'f32', [2]),
    source('e', 'u8', [2]),
  ];
  await writeSafetensors(folder, tensors, { maxShardBytes: 10 });
  const shard = (n: number) => `model-0000${n}-of-00003.safetensors`;
  expect((await readdir(folder)).sort()).toEqual([
    shard(1),
    shard(2),
    shard(3),
    'model.safetensors.index.json',
  ]);
  const index = await readFile(join(folder, 'model.safetensors.index.json'), 'utf8');
  expect(JSON.parse(index).metadata).toEqual({ total_size: 70 });
  expect(Object.fromEntries(parseWeightIndex(index, 'index'))).toEqual({
    a: shard(1),
    b: shard(1),
    c: shard(2),
    d: shard(3),
    e: shard(3),
  });
  for (const { name, bytes } of tensors) {
    const file = parseWeightIndex(index, 'index').get(name)!;
    expect((await readBack(file)).get(name)?.bytes).toEqual(bytes);
  }
});

test('progress counts bytes of data', async () => {
  const seen: [number, number][] = [];
  await writeSafetensors(folder, [source('a', 'u8', [7]), source('b', 'f32', [1])], {
    onProgress: (done, total) => seen.push([done, total]),
  });
  expect(seen).toEqual([4, 9, 11].map((done) => [done, 11]));
});

describe('nothing is left', () => {
  test('after cancelling', async () => {
    const controller = new AbortController();
    const writing = writeSafetensors(folder, [source('a', 'u8', [100], 1)], {
      signal: controller.signal,
      onProgress: (done) => {
        if (done === 50) controller.abort();
      },
    });
    await expect(writing).rejects.toMatchObject({ code: 'cancelled' });
    expect(await readdir(folder)).toEqual([]);
  });

  test('after a source that fails, or gives too few bytes; what was there before stays', async () => {
    await writeSafetensors(folder, [source('old', 'u8', [1])]);
    const before = await stat(join(folder, 'model.safetensors'));
    const short = {
      ...source('a', 'u8', [9]),
      *chunks() {
        yield new Uint8Array(8);
      },
    };
    await expect(writeSafetensors(folder, [short])).rejects.toMatchObject({
      code: 'internal',
      message: /gave 8 bytes; expected 9/,
    });
    const failing = {
      ...short,
      chunks: (): Iterable<Uint8Array> => {
        throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
      },
    };
    await expect(writeSafetensors(folder, [failing])).rejects.toMatchObject({
      code: 'environment',
      message: /disk is full/,
    });
    expect(await readdir(folder)).toEqual(['model.safetensors']);
    expect((await stat(join(folder, 'model.safetensors'))).ino).toBe(before.ino);
  });

  test.skipIf(process.platform !== 'linux')('on a full disk', async () => {
    await symlink('/dev/full', join(folder, `.model.safetensors.${process.pid}.partial`));
    await expect(writeSafetensors(folder, [source('a', 'u8', [100])])).rejects.toMatchObject({
      code: 'environment',
      message: /disk is full/,
    });
    expect(await readdir(folder)).toEqual([]);
  });

  test('in a folder that does not exist', async () => {
    await expect(writeSafetensors(join(folder, 'none'), [source('a', 'u8', [1])])).rejects.toMatchObject({
      code: 'not-found',
    });
  });
});
