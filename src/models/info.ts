/** What an importer knows of a model besides its graph. Plain JSON: a manifest holds it. */
export interface ModelInfo {
  /** `bitnet`, `1bitllm` or `llama-bitnet`: the importer that read it. */
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
  readonly activation: 'relu2' | 'silu';
  /** Whether attention and feed-forward have a norm before their last projection. */
  readonly subNorms: boolean;
  readonly normEps: number;
  readonly ropeTheta: number;
  readonly quantization: Quantization;
  readonly parameters: ParameterCounts;
  /** The stored type of the output head's table. */
  readonly headDType: 'f32' | 'f16' | 'bf16';
  readonly bosId?: number;
  /** Any of these ends a text or a turn. */
  readonly eosIds: readonly number[];
}

/** How the checkpoint has its ternary weights. */
export type Quantization =
  /** Packed trits with a scale by which outputs are multiplied or divided. */
  | { readonly form: 'packed'; readonly direction: 'multiply' | 'divide' }
  /** Float master weights, quantized on import. */
  | { readonly form: 'online' };

export interface ParameterCounts {
  readonly ternary: number;
  /** Of the embedding, and of the head where it is a table of its own. */
  readonly tables: number;
  readonly norms: number;
}
