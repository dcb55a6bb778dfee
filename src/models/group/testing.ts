/** GPTQ matrices and models for tests, written by what the format says, bit by bit and not by our own packing. */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { narrowFloats } from '../../common/halves.ts';
import { randomUniform } from '../../common/random.ts';
import {
  f32Tensor,
  type MemoryTensor,
  memoryCheckpoint,
  SMALL,
  smallConfig,
  smallTensors,
} from '../testing.ts';

const bytesOf = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
export const i32 = (shape: readonly number[], words: Uint32Array | Int32Array): MemoryTensor => ({
  dtype: 'i32',
  shape,
  bytes: bytesOf(words),
});
export const f16 = (shape: readonly number[], values: readonly number[]): MemoryTensor => ({
  dtype: 'f16',
  shape,
  bytes: bytesOf(narrowFloats(Float32Array.from(values), 'f16')),
});

/** Writes values of `bits` bits as one long number, the first lowest, and cuts it into words. */
function stream(values: readonly number[], bits: number): number[] {
  const words = new Array<number>(Math.ceil((values.length * bits) / 32)).fill(0);
  for (const [i, value] of values.entries()) {
    for (let bit = 0; bit < bits; bit++) {
      if ((value >> bit) & 1) words[Math.floor((i * bits + bit) / 32)]! += 2 ** ((i * bits + bit) % 32);
    }
  }
  return words;
}

export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly bits: number;
  readonly group: number;
  /** Group of every column. */
  readonly groupOf: readonly number[];
  /** [rows][cols], [rows][groups], [rows][groups] */
  readonly codes: readonly (readonly number[])[];
  readonly zeros: readonly (readonly number[])[];
  readonly scales: readonly (readonly number[])[];
}

export function randomMatrix(
  seed: number,
  rows: number,
  cols: number,
  bits: number,
  group: number,
  shuffled = false,
) {
  const random = randomUniform(seed);
  const whole = (limit: number) => Math.floor(random() * limit);
  const grid = (width: number, draw: () => number) =>
    Array.from({ length: rows }, () => Array.from({ length: width }, draw));
  const groups = Math.ceil(cols / group);
  const groupOf = Array.from({ length: cols }, (_, k) =>
    Math.floor((shuffled ? (k * 7 + 3) % cols : k) / group),
  );
  return {
    rows,
    cols,
    bits,
    group,
    groupOf,
    codes: grid(cols, () => whole(2 ** bits)),
    zeros: grid(groups, () => whole(2 ** bits)),
    scales: grid(groups, () => (1 + whole(100)) / 256),
  } satisfies Matrix;
}

export const column = <T>(grid: readonly (readonly T[])[], at: number) => grid.map((row) => row[at]!);

/** The tensors of a matrix as AutoGPTQ writes them. `less`: what is taken from zeros, 1 in its first version. */
export function gptqTensors(name: string, m: Matrix, less: number): Record<string, MemoryTensor> {
  const { rows, cols, bits } = m;
  const groups = m.scales[0]!.length;
  // A row of `qweight` for every word of columns: streams go down.
  const streams = m.codes.map((row) => stream(row, bits));
  const words = streams[0]!.length;
  const qweight = Uint32Array.from(
    { length: words * rows },
    (_, i) => streams[i % rows]![Math.floor(i / rows)]!,
  );
  const mask = 2 ** bits - 1;
  const qzeros = Array.from({ length: groups }, (_, g) =>
    stream(
      column(m.zeros, g).map((zero) => (zero - less) & mask),
      bits,
    ),
  );
  const scales = Array.from({ length: groups }, (_, g) => column(m.scales, g));
  return {
    [`${name}.qweight`]: i32([words, rows], qweight),
    [`${name}.qzeros`]: i32([groups, qzeros[0]!.length], Uint32Array.from(qzeros.flat())),
    [`${name}.scales`]: f16([groups, rows], scales.flat()),
    [`${name}.g_idx`]: i32([cols], Int32Array.from(m.groupOf)),
  };
}

/** (code - zero) * scale, [rows][cols] */
export const valuesOf = (m: Matrix) =>
  m.codes.map((row, r) =>
    row.map((code, k) => (code - m.zeros[r]![m.groupOf[k]!]!) * m.scales[r]![m.groupOf[k]!]!),
  );

const SHAPE = { ...SMALL, hidden: 64, intermediate: 96, heads: 4, kvHeads: 2, headDim: 16 };

/** The model twice: in codes, and in floats of the same values. `shuffled`: one order for each input. */
export function gptqModels(bits: number, shuffled: boolean): readonly [Checkpoint, Checkpoint] {
  const coded: Record<string, MemoryTensor> = {};
  const floats: Record<string, MemoryTensor> = {};
  let seed = 0;
  for (const [name, stored] of Object.entries(smallTensors({ weights: 'masters', shape: SHAPE }))) {
    const prefix = name.replace(/\.weight$/, '');
    if (!prefix.endsWith('_proj')) {
      coded[name] = floats[name] = stored;
      continue;
    }
    const [rows, cols] = stored.shape as [number, number];
    const m = randomMatrix(++seed, rows, cols, bits, 32, shuffled);
    Object.assign(coded, gptqTensors(prefix, m, 1));
    floats[name] = f32Tensor([rows, cols], valuesOf(m).flat());
  }
  const config = { ...smallConfig(SHAPE), model_type: 'llama', architectures: ['LlamaForCausalLM'] };
  const quantized = { quant_method: 'gptq', bits, group_size: 32, sym: false, desc_act: shuffled };
  return [
    memoryCheckpoint(coded, { ...config, quantization_config: quantized }),
    memoryCheckpoint(floats, config),
  ];
}
