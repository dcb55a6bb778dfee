/** Checkpoints in memory, for tests. */
import type { Checkpoint, StoredDType, TensorInfo } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { narrowFloats } from '../common/halves.ts';
import { randomUniform } from '../common/random.ts';

export interface MemoryTensor {
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export type MemoryTensors = Readonly<Record<string, MemoryTensor>>;

const bytesOf = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

export function f32Tensor(shape: readonly number[], values: ArrayLike<number>): MemoryTensor {
  return { dtype: 'f32', shape, bytes: bytesOf(Float32Array.from(values)) };
}

export function bf16Tensor(shape: readonly number[], values: ArrayLike<number>): MemoryTensor {
  return { dtype: 'bf16', shape, bytes: bytesOf(narrowFloats(Float32Array.from(values), 'bf16')) };
}

export function u8Tensor(shape: readonly number[], values: ArrayLike<number>): MemoryTensor {
  return { dtype: 'u8', shape, bytes: Uint8Array.from(values) };
}

export function memoryCheckpoint(
  tensors: MemoryTensors,
  config: Readonly<Record<string, unknown>> = {},
  generationConfig: Readonly<Record<string, unknown>> = {},
): Checkpoint {
  const infos = Object.entries(tensors).map(([name, { dtype, shape, bytes }]): [string, TensorInfo] => [
    name,
    { name, dtype, shape, bytes: bytes.length },
  ]);
  return {
    path: '/models/acme/test-model',
    config,
    generationConfig,
    textFiles: new Map(),
    tensors: new Map(infos),
    async read(name) {
      const tensor = tensors[name];
      if (tensor === undefined) throw new LutraError('not-found', `no tensor ${name}`);
      return tensor.bytes;
    },
    async close() {},
  };
}

/** Numbers uniform in [-range, range), the same for the same seed. */
export function randomValues(count: number, seed: number, range = 1): Float32Array {
  const random = randomUniform(seed);
  return Float32Array.from({ length: count }, () => (2 * random() - 1) * range);
}

/** Random weights in Hugging Face's packing, [rows/4, cols]: no field is 3. */
export function randomPacked(rows: number, cols: number, seed: number): MemoryTensor {
  const random = randomUniform(seed);
  const code = () => Math.floor(random() * 3);
  const bytes = Array.from(
    { length: (rows / 4) * cols },
    () => code() | (code() << 2) | (code() << 4) | (code() << 6),
  );
  return u8Tensor([rows / 4, cols], bytes);
}
