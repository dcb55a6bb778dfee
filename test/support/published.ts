/**
 * Forward passes of published decoders in plain float64, from their definitions in transformers
 * (`modeling_llama.py`, `modeling_mistral.py`, ...), over tensors by the names checkpoints have them: an opinion that
 * shares nothing with lutra's graphs. Slow, and as close to the definitions as it can be.
 */
import { randomUniform } from '../../src/common/random.ts';
import { f32Tensor, type MemoryTensors } from '../../src/models/testing.ts';

export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly data: Float32Array;
}

export type Weights = ReadonlyMap<string, Matrix>;
export type Config = Readonly<Record<string, unknown>>;
type Vector = readonly number[];

/** Sizes that are all different, with heads that are no divisors of anything. */
export const SHAPE = {
  vocab_size: 37,
  hidden_size: 48,
  intermediate_size: 40,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 10,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 64,
  hidden_act: 'silu',
  rope_theta: 10000,
  bos_token_id: 1,
  eos_token_id: 2,
} as const;

/** config.json key of this file's own: BitNet layers, each with a norm in front (bitnet-embedding). */
const BITNET = 'bitnet_layers';

export type Architecture = 'llama' | 'mistral' | 'qwen2' | 'qwen3' | 'phi3' | 'gemma3_text';

type Shape = Readonly<Record<keyof typeof SHAPE, number | string>>;
const sizeOf = (config: Config, key: keyof Shape) => Number(config[key]);

/** Random weights under the names that the architecture's checkpoints have. */
export function randomWeights(architecture: Architecture, config: Config): Weights {
  const random = randomUniform(71);
  const weights = new Map<string, Matrix>();
  const add = (name: string, rows: number, cols: number, mean: number, range: number) => {
    const data = Float32Array.from({ length: rows * cols }, () => mean + range * (2 * random() - 1));
    weights.set(name, { rows, cols, data });
  };
  const [hidden, inner, heads, kvHeads, headDim] = (
    ['hidden_size', 'intermediate_size', 'num_attention_heads', 'num_key_value_heads', 'head_dim'] as const
  ).map((key) => sizeOf(config, key)) as [number, number, number, number, number];
  const [width, kvWidth] = [heads * headDim, kvHeads * headDim];
  const gemma = architecture === 'gemma3_text';
  const norm = (name: string, size: number) => add(`${name}.weight`, size, 1, gemma ? 0 : 1, 0.4);
  const linear = (name: string, rows: number, cols: number, biased = false) => {
    add(`${name}.weight`, rows, cols, 0, 0.4);
    if (config[BITNET] === true) norm(`${name}.norm`, cols);
    if (biased) add(`${name}.bias`, rows, 1, 0, 0.5);
  };
  const biases = { attention: config.attention_bias === true, mlp: config.mlp_bias === true };
  add('model.embed_tokens.weight', sizeOf(config, 'vocab_size'), hidden, 0, 1);
  for (let i = 0; i < sizeOf(config, 'num_hidden_layers'); i++) {
    const layer = `model.layers.${i}`;
    const attention = `${layer}.self_attn`;
    norm(`${layer}.input_layernorm`, hidden);
    norm(`${layer}.post_attention_layernorm`, hidden);
    if (gemma) {
      norm(`${layer}.pre_feedforward_layernorm`, hidden);
      norm(`${layer}.post_feedforward_layernorm`, hidden);
    }
    if (architecture === 'phi3') {
      linear(`${attention}.qkv_proj`, width + 2 * kvWidth, hidden);
      linear(`${layer}.mlp.gate_up_proj`, 2 * inner, hidden);
    } else {
      const biased = architecture === 'qwen2' || biases.attention;
      linear(`${attention}.q_proj`, width, hidden, biased);
      linear(`${attention}.k_proj`, kvWidth, hidden, biased);
      linear(`${attention}.v_proj`, kvWidth, hidden, biased);
      linear(`${layer}.mlp.gate_proj`, inner, hidden, biases.mlp);
      linear(`${layer}.mlp.up_proj`, inner, hidden, biases.mlp);
    }
    if (gemma || architecture === 'qwen3') {
      norm(`${attention}.q_norm`, headDim);
      norm(`${attention}.k_norm`, headDim);
    }
    linear(`${attention}.o_proj`, hidden, width, biases.attention);
    linear(`${layer}.mlp.down_proj`, hidden, inner, biases.mlp);
  }
  norm('model.norm', hidden);
  if (config.tie_word_embeddings !== true && !gemma) {
    add('lm_head.weight', sizeOf(config, 'vocab_size'), hidden, 0, 1);
  }
  return weights;
}

/** As `memoryCheckpoint` takes them. */
export function asTensors(weights: Weights): MemoryTensors {
  return Object.fromEntries(
    [...weights].map(([name, { rows, cols, data }]) => [
      name,
      f32Tensor(cols === 1 ? [rows] : [rows, cols], data),
    ]),
  );
}

const dot = (a: Vector, b: Vector) => a.reduce((sum, x, i) => sum + x * b[i]!, 0);
const plus = (a: Vector, b: Vector) => a.map((x, i) => x + b[i]!);

function rowOf({ cols, data }: Matrix, row: number): Vector {
  return Array.from(data.subarray(row * cols, (row + 1) * cols));
}

function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

function geluTanh(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

interface Angles {
  readonly inverseFrequencies: Vector;
  /** `attention_scaling`: cosines and sines are multiplied by it. */
  readonly scaling: number;
}

interface RopeScalingConfig {
  readonly rope_type?: string;
  readonly type?: string;
  readonly factor?: number;
  readonly low_freq_factor?: number;
  readonly high_freq_factor?: number;
  readonly original_max_position_embeddings?: number;
  readonly short_factor?: Vector;
  readonly long_factor?: Vector;
}

/** `modeling_rope_utils.py`; `length`: positions of the sequence, by which LongRoPE chooses its factors. */
function anglesOf(config: Config, theta: number, length: number): Angles {
  const dim = sizeOf(config, 'head_dim');
  const inverse = Array.from({ length: dim / 2 }, (_, i) => 1 / theta ** ((2 * i) / dim));
  const scaling = config.rope_scaling as RopeScalingConfig | undefined;
  const most = sizeOf(config, 'max_position_embeddings');
  const factor = scaling?.factor ?? 1;
  switch (scaling?.rope_type ?? scaling?.type) {
    case undefined:
      return { inverseFrequencies: inverse, scaling: 1 };
    case 'linear':
      return { inverseFrequencies: inverse.map((f) => f / factor), scaling: 1 };
    case 'llama3': {
      const old = scaling!.original_max_position_embeddings!;
      const [low, high] = [scaling!.low_freq_factor!, scaling!.high_freq_factor!];
      return {
        scaling: 1,
        inverseFrequencies: inverse.map((f) => {
          const wavelength = (2 * Math.PI) / f;
          if (wavelength < old / high) return f;
          if (wavelength > old / low) return f / factor;
          const smooth = (old / wavelength - low) / (high - low);
          return ((1 - smooth) * f) / factor + smooth * f;
        }),
      };
    }
    case 'yarn': {
      const old = scaling!.original_max_position_embeddings ?? most;
      const correction = (turns: number) =>
        (dim * Math.log(old / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
      const low = Math.max(Math.floor(correction(32)), 0);
      const high = Math.min(Math.ceil(correction(1)), dim - 1);
      return {
        scaling: 0.1 * Math.log(factor) + 1,
        inverseFrequencies: inverse.map((f, i) => {
          const kept = 1 - Math.min(1, Math.max(0, (i - low) / (high - low)));
          return (f / factor) * (1 - kept) + f * kept;
        }),
      };
    }
    case 'longrope': {
      const old = Number(config.original_max_position_embeddings);
      const factors = length > old ? scaling!.long_factor! : scaling!.short_factor!;
      const stretch = most / old;
      return {
        scaling: Math.sqrt(1 + Math.log(stretch) / Math.log(old)),
        inverseFrequencies: inverse.map((f, i) => f / factors[i]!),
      };
    }
    default:
      throw new Error('a kind of scaling this file does not know');
  }
}

/** x cos + rotate_half(x) sin of one head. */
function rotated(head: Vector, position: number, { inverseFrequencies, scaling }: Angles): Vector {
  const half = head.length / 2;
  return head.map((x, i) => {
    const angle = position * inverseFrequencies[i % half]!;
    const turned = i < half ? -head[i + half]! : head[i - half]!;
    return x * Math.cos(angle) * scaling + turned * Math.sin(angle) * scaling;
  });
}

/** Rounds half to even. */
function nearest(x: number): number {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2 === 0 ? 0 : 1) : Math.round(x);
}

/** Activations in int8 for each token, weights as -1, 0 and 1 times their mean magnitude. */
function bitLinear(x: Vector, { rows, cols, data }: Matrix): Vector {
  const scale = 127 / Math.max(1e-5, ...x.map(Math.abs));
  const q = x.map((v) => Math.max(-128, Math.min(127, nearest(v * scale))));
  const mean = Math.max(1e-5, data.reduce((sum, w) => sum + Math.abs(w), 0) / data.length);
  const trits = Array.from(data, (w) => Math.max(-1, Math.min(1, nearest(w / mean))));
  return Array.from(
    { length: rows },
    (_, row) => (dot(q, trits.slice(row * cols, (row + 1) * cols)) * mean) / scale,
  );
}

const headsOf = (row: Vector, headDim: number) =>
  Array.from({ length: row.length / headDim }, (_, h) => row.slice(h * headDim, (h + 1) * headDim));

/** Logits of every token of a sequence, or, of `hidden`, what the head reads. `context`: positions the model is set up for, at least those there are. */
export function publishedForward(
  architecture: Architecture,
  config: Config,
  weights: Weights,
  tokens: readonly number[],
  context = tokens.length,
  output: 'logits' | 'hidden' = 'logits',
): Vector[] {
  const gemma = architecture === 'gemma3_text';
  const [hidden, heads, kvHeads, headDim] = (
    ['hidden_size', 'num_attention_heads', 'num_key_value_heads', 'head_dim'] as const
  ).map((key) => sizeOf(config, key)) as [number, number, number, number];
  const at = (name: string): Matrix => {
    const found = weights.get(name);
    if (found === undefined) throw new Error(`no tensor ${name}`);
    return found;
  };
  const linear = (x: Vector, name: string): Vector => {
    if (config[BITNET] === true) return bitLinear(norm(x, `${name}.norm`), at(`${name}.weight`));
    const matrix = at(`${name}.weight`);
    const bias = weights.get(`${name}.bias`);
    return Array.from(
      { length: matrix.rows },
      (_, row) => dot(rowOf(matrix, row), x) + (bias?.data[row] ?? 0),
    );
  };
  const norm = (x: Vector, name: string): Vector => {
    const rms = Math.sqrt(dot(x, x) / x.length + Number(config.rms_norm_eps));
    const weight = at(`${name}.weight`).data;
    return x.map((v, i) => (v / rms) * (gemma ? 1 + weight[i]! : weight[i]!));
  };
  const act = gemma ? geluTanh : silu;
  const far = anglesOf(config, Number(config.rope_theta), context);
  const near = gemma
    ? anglesOf({ ...config, rope_scaling: undefined }, Number(config.rope_local_base_freq), context)
    : far;

  const slides = (layer: number): boolean => {
    if (config.sliding_window === undefined || config.sliding_window === null) return false;
    if (gemma) return (layer + 1) % Number(config.sliding_window_pattern) !== 0;
    if (architecture === 'mistral' || architecture === 'phi3') return true;
    return config.use_sliding_window === true && layer >= Number(config.max_window_layers);
  };
  const scale = gemma ? Number(config.query_pre_attn_scalar) ** -0.5 : headDim ** -0.5;

  const attend = (normed: readonly Vector[], layer: number): Vector[] => {
    const name = `model.layers.${layer}.self_attn`;
    const angles = slides(layer) ? near : far;
    const window = slides(layer) ? Number(config.sliding_window) : Number.POSITIVE_INFINITY;
    const rows = normed.map((x, position) => {
      let [q, k, v]: [Vector, Vector, Vector] = [[], [], []];
      if (architecture === 'phi3') {
        const qkv = linear(x, `${name}.qkv_proj`);
        const ends = [heads * headDim, (heads + kvHeads) * headDim] as const;
        [q, k, v] = [qkv.slice(0, ends[0]), qkv.slice(ends[0], ends[1]), qkv.slice(ends[1])];
      } else {
        [q, k, v] = [linear(x, `${name}.q_proj`), linear(x, `${name}.k_proj`), linear(x, `${name}.v_proj`)];
      }
      let [queries, keys]: [Vector[], Vector[]] = [headsOf(q, headDim), headsOf(k, headDim)];
      if (gemma || architecture === 'qwen3') {
        queries = queries.map((head) => norm(head, `${name}.q_norm`));
        keys = keys.map((head) => norm(head, `${name}.k_norm`));
      }
      return {
        queries: queries.map((head) => rotated(head, position, angles)),
        keys: keys.map((head) => rotated(head, position, angles)),
        values: headsOf(v, headDim),
      };
    });
    return rows.map(({ queries }, position) => {
      const mixed = queries.flatMap((query, head) => {
        const shared = Math.floor(head / (heads / kvHeads));
        const seen = rows.slice(0, position + 1).filter((_, other) => position - other < window);
        const powers = seen.map(({ keys }) => Math.exp(dot(query, keys[shared]!) * scale));
        const total = powers.reduce((sum, power) => sum + power, 0);
        return query.map((_, i) =>
          seen.reduce((sum, { values }, p) => sum + (powers[p]! / total) * values[shared]![i]!, 0),
        );
      });
      return linear(mixed, `${name}.o_proj`);
    });
  };

  const feed = (x: Vector, layer: number): Vector => {
    const name = `model.layers.${layer}.mlp`;
    let [gate, up]: [Vector, Vector] = [[], []];
    if (architecture === 'phi3') {
      const both = linear(x, `${name}.gate_up_proj`);
      [gate, up] = [both.slice(0, both.length / 2), both.slice(both.length / 2)];
    } else {
      [gate, up] = [linear(x, `${name}.gate_proj`), linear(x, `${name}.up_proj`)];
    }
    return linear(
      gate.map((g, i) => act(g) * up[i]!),
      `${name}.down_proj`,
    );
  };

  const table = at('model.embed_tokens.weight');
  let x: Vector[] = tokens.map((token) =>
    rowOf(table, token).map((v) => (gemma ? v * Math.fround(Math.sqrt(hidden)) : v)),
  );
  for (let layer = 0; layer < sizeOf(config, 'num_hidden_layers'); layer++) {
    const name = `model.layers.${layer}`;
    const mixed = attend(
      x.map((row) => norm(row, `${name}.input_layernorm`)),
      layer,
    );
    x = x.map((row, t) => {
      if (gemma) {
        const h = plus(row, norm(mixed[t]!, `${name}.post_attention_layernorm`));
        const fed = feed(norm(h, `${name}.pre_feedforward_layernorm`), layer);
        return plus(h, norm(fed, `${name}.post_feedforward_layernorm`));
      }
      const h = plus(row, mixed[t]!);
      return plus(h, feed(norm(h, `${name}.post_attention_layernorm`), layer));
    });
  }
  const head = weights.get('lm_head.weight') ?? table;
  return x.map((row) => {
    const last = norm(row, 'model.norm');
    if (output === 'hidden') return last;
    return Array.from({ length: head.rows }, (_, token) => dot(rowOf(head, token), last));
  });
}
