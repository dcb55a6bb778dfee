import type { CodeBits, GroupSource } from '../graph/ir.ts';

/** What an importer knows of a model besides its graph. Plain JSON: a manifest holds it. */
export interface ModelInfo {
  /** `bitnet`, `1bitllm`, `llama-bitnet`, `llama`, `mistral`, `qwen2`, ...: what the model is known as. */
  readonly architecture: string;
  /** As the hub calls it where the path tells, else the folder's name. */
  readonly name: string;
  readonly layers: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  /** Positions the model was made for. */
  readonly maxContext: number;
  /** Whether the output head is the embedding table. */
  readonly tied: boolean;
  readonly activation: 'relu2' | 'silu' | 'gelu';
  /** Whether attention and feed-forward have a norm before their last projection. */
  readonly subNorms: boolean;
  readonly normEps: number;
  readonly ropeTheta: number;
  readonly quantization: Quantization;
  /** Of weights rounded on import, known once they are. */
  readonly rounding?: RoundingSummary;
  readonly parameters: ParameterCounts;
  /** The stored type of the output head's table. */
  readonly headDType: 'f32' | 'f16' | 'bf16';
  readonly bosId?: number;
  /** Any of these ends a text or a turn. */
  readonly eosIds: readonly number[];
}

/** How the model has the weights of its projections. */
export type Quantization =
  /** Packed trits with a scale by which outputs are multiplied or divided. */
  | { readonly form: 'packed'; readonly direction: 'multiply' | 'divide' }
  /** Float master weights, quantized on import. */
  | { readonly form: 'online' }
  /** Floats, multiplied as they are. */
  | { readonly form: 'float' }
  /** Codes with a scale, and perhaps a zero, for every group of columns. */
  | GroupQuantization
  /** Codes of some matrices, each of a form of its own, and floats. */
  | MixedQuantization;

/** What activations are rounded to, group by group, in front of weights in groups. */
export interface ActivationForm {
  readonly activations: 'int8' | 'int16' | 'f32' | 'f16';
  /** Whether these are rounded so that sums of 4 fit a byte (`quantize.group` to sums); floats always are. */
  readonly byteSums?: boolean;
}

export interface GroupQuantization extends ActivationForm {
  readonly form: 'groups';
  /** What makes the codes: see `GroupSource`. */
  readonly format: Exclude<GroupSource['format'], 'parts'>;
  readonly bits: CodeBits;
  /** Columns of a group; `row`: all of them; `tensor`: all have the scale of the whole matrix. */
  readonly group: number | 'row' | 'tensor';
  /** Without zeros: the middle code is 0. */
  readonly symmetric: boolean;
  /** GPTQ: how zeros are stored, and whether columns are sorted by what they matter (`desc_act`). */
  readonly zeros?: 'v1' | 'v2';
  readonly ordered?: boolean;
}

export interface MixedQuantization extends ActivationForm {
  readonly form: 'mixed';
  /** By the name of the tensor; the others are floats. */
  readonly matrices: Readonly<Record<string, MatrixCodes>>;
}

export interface MatrixCodes {
  readonly bits: CodeBits;
  /** Columns of a group. */
  readonly group: number;
  /** Columns of blocks that have scales and minima in floats, those of groups being integers; absent: they are floats. */
  readonly block?: number | undefined;
  /** Integers that scales of groups are, and minima if there are any; only with blocks. */
  readonly scaleCodes?: 'u4' | 'u8' | 'i8' | undefined;
  /** The code that is 0 in every group; absent where groups have minima, which are subtracted. */
  readonly zero?: number | undefined;
}

/** Normalized mean squared errors of rounded tensors: sum of (w - w')^2 over sum of w^2. */
export interface RoundingSummary {
  readonly tensors: number;
  readonly mean: number;
  readonly worst: number;
  readonly worstTensor: string;
}

export interface ParameterCounts {
  readonly ternary: number;
  /** Weights of projections that are not ternary. */
  readonly projections?: number;
  /** Of the embedding, and of the head where it is a table of its own. */
  readonly tables: number;
  readonly norms: number;
}
