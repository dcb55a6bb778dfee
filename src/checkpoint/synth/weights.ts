/** The tensors of a decoder with random weights, generated chunk by chunk. */
import { type HalfFormat, narrowFloats } from '../../common/halves.ts';
import { randomUniform, randomWord } from '../../common/random.ts';
import { type TensorSource, tensorBytes } from '../write.ts';

/** What the weights depend on; sizes in elements. */
export interface SynthShape {
  readonly hidden: number;
  readonly intermediate: number;
  readonly layers: number;
  /** Rows of q_proj, and of k_proj and v_proj. */
  readonly queryRows: number;
  readonly keyRows: number;
  readonly vocab: number;
  readonly tied: boolean;
  /** Names of the norms before o_proj and before down_proj, where the architecture has them. */
  readonly subNorms: { readonly attention: string; readonly mlp: string } | undefined;
  /**
   * `master`: floats, to be quantized when they are read. Otherwise packed ternary codes with a
   * `weight_scale` by which outputs are multiplied or divided; or codes as GPTQ stores them.
   */
  readonly linear: 'master' | 'multiply' | 'divide' | GptqShape;
  /** The format of everything that is not packed. */
  readonly float: HalfFormat;
}

/** Symmetric codes with a scale for every group of columns. */
export interface GptqShape {
  readonly bits: 2 | 4 | 8;
  readonly group: number;
}

/** Elements or bytes made at a time. */
const CHUNK = 1 << 20;
const TABLE = 1 << 16;

/** The share of normally distributed weights that quantization by their absolute mean does not make 0. */
const KEPT = 0.69;
/** Mean of the absolute value of a standard normal variable. */
const MEAN_ABS = Math.sqrt(2 / Math.PI);

/**
 * All tensors of a model in the order of its layers. Matrices are scaled so that inputs of unit variance
 * give outputs of unit variance: activations neither explode nor vanish.
 */
export function synthTensors(shape: SynthShape, seed: number): TensorSource[] {
  const { hidden, intermediate, queryRows, keyRows, vocab, float, subNorms } = shape;
  const normal = normalTable(seed);
  const seedOf = (name: string) => hash(name, seed);
  const floats = (name: string, dims: readonly number[], mean: number, deviation: number) =>
    floatTensor(name, float, dims, tableOf(normal, mean, deviation, float), seedOf(name));
  const norm = (name: string, size: number) => floats(`${name}.weight`, [size], 1, 0.05);
  const linear = (name: string, rows: number, cols: number): TensorSource[] => {
    const weight = `${name}.weight`;
    if (shape.linear === 'master') {
      const meanAbs = 1 / Math.sqrt(KEPT * cols);
      return [floats(weight, [rows, cols], 0, meanAbs / MEAN_ABS)];
    }
    if (typeof shape.linear === 'object') {
      const { bits, group } = shape.linear;
      const groups = Math.ceil(cols / group);
      const middle = 2 ** (bits - 1);
      // Mean square of a code less the middle one, for codes that are equally frequent.
      const square = (4 ** bits - 1) / 12 + 0.25;
      const scale = 1 / Math.sqrt(square * cols);
      const zeros = { name: `${name}.qzeros`, dtype: 'i32', shape: [groups, (rows * bits) / 32] } as const;
      return [
        randomWords(`${name}.qweight`, [(cols * bits) / 32, rows], seedOf(weight)),
        // The first version of the format stores zeros less one.
        { ...zeros, chunks: () => [filled(zeros, repeatedCode(middle - 1, bits))] },
        floats(`${name}.scales`, [groups, rows], scale, 0.1 * scale),
      ];
    }
    // Two thirds of the codes are +1 or -1.
    const scale = Math.sqrt(3 / 2 / cols);
    const stored = shape.linear === 'multiply' ? scale : 1 / scale;
    return [packedTensor(weight, rows, cols, seedOf(weight)), floats(`${name}.weight_scale`, [1], stored, 0)];
  };
  const embedding = (name: string) => floats(name, [vocab, hidden], 0, 1 / Math.sqrt(hidden));

  const layers = Array.from({ length: shape.layers }, (_, index) => {
    const layer = `model.layers.${index}`;
    const attention = `${layer}.self_attn`;
    const mlp = `${layer}.mlp`;
    return [
      norm(`${layer}.input_layernorm`, hidden),
      linear(`${attention}.q_proj`, queryRows, hidden),
      linear(`${attention}.k_proj`, keyRows, hidden),
      linear(`${attention}.v_proj`, keyRows, hidden),
      subNorms === undefined ? [] : norm(`${attention}.${subNorms.attention}`, queryRows),
      linear(`${attention}.o_proj`, hidden, queryRows),
      norm(`${layer}.post_attention_layernorm`, hidden),
      linear(`${mlp}.gate_proj`, intermediate, hidden),
      linear(`${mlp}.up_proj`, intermediate, hidden),
      subNorms === undefined ? [] : norm(`${mlp}.${subNorms.mlp}`, intermediate),
      linear(`${mlp}.down_proj`, hidden, intermediate),
    ].flat();
  });
  return [
    embedding('model.embed_tokens.weight'),
    ...layers.flat(),
    norm('model.norm', hidden),
    ...(shape.tied ? [] : [embedding('lm_head.weight')]),
  ];
}

/** A byte of which every code is this one. */
function repeatedCode(code: number, bits: number): number {
  let byte = 0;
  for (let bit = 0; bit < 8; bit += bits) byte |= code << bit;
  return byte;
}

function filled(tensor: Parameters<typeof tensorBytes>[0], byte: number): Uint8Array {
  return new Uint8Array(tensorBytes(tensor)).fill(byte);
}

/** Words of random bits. */
function randomWords(name: string, shape: readonly number[], seed: number): TensorSource {
  return {
    name,
    dtype: 'i32',
    shape,
    *chunks() {
      const chunk = new Uint32Array(CHUNK);
      const total = tensorBytes({ dtype: 'i32', shape }) / 4;
      for (let start = 0; start < total; start += CHUNK) {
        const count = Math.min(CHUNK, total - start);
        for (let i = 0; i < count; i++) chunk[i] = randomWord(seed, start + i);
        yield new Uint8Array(chunk.buffer, 0, 4 * count);
      }
    },
  };
}

/** Ternary codes in the packing of transformers: [rows/4, cols] bytes of four codes, t + 1 in 0..2, each. */
function packedTensor(name: string, rows: number, cols: number, seed: number): TensorSource {
  const shape = [rows / 4, cols];
  return {
    name,
    dtype: 'u8',
    shape,
    *chunks() {
      const chunk = new Uint8Array(CHUNK);
      const total = tensorBytes({ dtype: 'u8', shape });
      for (let start = 0; start < total; start += CHUNK) {
        const count = Math.min(CHUNK, total - start);
        fill(chunk, count, CODES, seed, start);
        yield chunk.subarray(0, count);
      }
    },
  };
}

/** Elements `start` to `start + count`, even numbers, of a random sequence of table entries. */
function fill<T extends Uint8Array | Uint16Array>(
  out: T,
  count: number,
  table: T,
  seed: number,
  start: number,
): void {
  for (let i = 0; i < count; i += 2) {
    const word = randomWord(seed, (start + i) / 2);
    out[i] = table[word & 0xffff]!;
    out[i + 1] = table[word >>> 16]!;
  }
}

/** The 81 bytes of which no two bits hold the code 3, spread evenly over 16 random bits. */
const CODES = Uint8Array.from({ length: TABLE }, (_, word) => {
  const value = Math.floor((word * 81) / TABLE);
  const code = (place: number) => Math.floor(value / place) % 3;
  return code(1) | (code(3) << 2) | (code(9) << 4) | (code(27) << 6);
});

function floatTensor(
  name: string,
  dtype: HalfFormat,
  shape: readonly number[],
  table: () => Uint16Array,
  seed: number,
): TensorSource {
  return {
    name,
    dtype,
    shape,
    *chunks() {
      const values = table();
      const chunk = new Uint16Array(CHUNK);
      const total = tensorBytes({ dtype, shape }) / 2;
      for (let start = 0; start < total; start += CHUNK) {
        const count = Math.min(CHUNK, total - start);
        fill(chunk, count, values, seed, start);
        yield new Uint8Array(chunk.buffer, 0, 2 * count);
      }
    },
  };
}

/** 65536 normally distributed values (Box and Muller, 1958). */
function normalTable(seed: number): Float32Array {
  const uniform = randomUniform(seed);
  return Float32Array.from({ length: TABLE }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  });
}

/** Made when the tensor is written, since there are hundreds of tensors. */
function tableOf(
  normal: Float32Array,
  mean: number,
  deviation: number,
  format: HalfFormat,
): () => Uint16Array {
  return () =>
    narrowFloats(
      normal.map((value) => mean + deviation * value),
      format,
    );
}

/** FNV-1a over the name, so that a tensor's values do not depend on the order of writing. */
function hash(name: string, seed: number): number {
  let state = (0x811c9dc5 ^ seed) >>> 0;
  for (let i = 0; i < name.length; i++) state = Math.imul(state ^ name.charCodeAt(i), 0x01000193);
  return state >>> 0;
}
