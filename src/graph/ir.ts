/**
 * The graph IR: immutable dataflow over typed tensors. It says what to compute, and knows nothing of
 * hardware, memory or kernels. Each value is defined once: by an input, a constant or a node.
 */

/**
 * `ternary`: each element is -1, 0 or 1; `u1` to `u6`: codes of that many bits. How these lie in memory is the
 * constant's `encoding`.
 */
export type DType =
  | 'f32'
  | 'f16'
  | 'bf16'
  | 'i8'
  | 'i16'
  | 'i32'
  | 'ternary'
  | 'u1'
  | 'u2'
  | 'u3'
  | 'u4'
  | 'u6'
  | 'u8';

/** A size known at compile time, or one known per step: the tokens of it, or those whose logits are wanted. */
export type Dim = number | 'tokens' | 'outputs';

export interface TensorType {
  readonly dtype: DType;
  /** Outermost first; row-major. */
  readonly shape: readonly Dim[];
}

/** A named value and its type. */
export interface Value {
  readonly name: string;
  readonly type: TensorType;
}

export type AttrValue = number | string | boolean | readonly number[];
export type Attrs = Readonly<Record<string, AttrValue>>;

/** One operation: `op` names an entry of the operator registry, which fixes inputs, outputs and attributes. */
export interface Node {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly Value[];
  readonly attrs: Attrs;
}

/**
 * Where a constant comes from: a recipe over the checkpoint's tensors, evaluated one constant at a time
 * when weights are packed, so that a model never is in memory as a whole.
 */
export type WeightSource =
  /** A tensor of the checkpoint as stored (f32, f16 or bf16), converted to the constant's dtype. */
  | { readonly kind: 'tensor'; readonly tensor: string }
  /** Hugging Face BitNet packing: u8 [out/4, in], bits 2i..2i+1 of byte row r = code + 1 of row r + i (out/4). */
  | { readonly kind: 'packed-ternary'; readonly tensor: string }
  /** Master weights quantized on import: s = 1/max(mean|w|, 1e-5), t = clamp(round-half-even(w s), -1, 1). */
  | { readonly kind: 'absmean-ternary'; readonly tensor: string }
  /** f32 [rows], each the value (`multiply`) or reciprocal (`divide`) of a one-element tensor. */
  | {
      readonly kind: 'scale';
      readonly tensor: string;
      readonly direction: 'multiply' | 'divide';
      readonly rows: number;
    }
  /** f32 [rows], each 1/s of the tensor: what goes with `absmean-ternary`. */
  | { readonly kind: 'absmean-scale'; readonly tensor: string; readonly rows: number }
  /** f32 [length * times]: `times` times after each other, (value + plus) * factor of each value of a float vector. */
  | {
      readonly kind: 'adjusted';
      readonly tensor: string;
      readonly plus: number;
      readonly factor: number;
      readonly times: number;
    }
  /** A part of a matrix quantized in groups of columns: see `GroupSource`. */
  | { readonly kind: GroupPart; readonly of: GroupSource }
  /** The parts one after the other along the first axis. */
  | { readonly kind: 'concat'; readonly parts: readonly WeightSource[] }
  /**
   * f32 [positions, headDim]: cos of the headDim/2 angles position * theta^(-2i/headDim), then their sines. Frequency i,
   * scaled if there is `scaling`, is divided by divisors[i] or by the only divisor; cosines and sines are multiplied by
   * `magnitude`.
   */
  | {
      readonly kind: 'rope-table';
      readonly theta: number;
      readonly headDim: number;
      readonly positions: number;
      readonly scaling?: RopeScaling;
      readonly divisors?: readonly number[];
      readonly magnitude?: number;
    }
  /** Values given in place, row-major. */
  | { readonly kind: 'data'; readonly values: readonly number[] };

/**
 * The parts of a matrix [rows, columns] whose weights are scale * (code - zero), each scale and zero shared by
 * `group` adjacent columns of a row:
 *
 * - `codes`: u1 to u8 [rows, columns]
 * - `scales`: f16 or f32 [rows, groups]
 * - `zeros`: u8 [rows, groups] in units of codes; or, where a source has minima instead, floats: the weights
 *   are then scale * code - zero
 * - `scaleCodes`: u4, u8 or i8 [rows, groups], where a source has blocks of groups: `scales` are then f16 [rows,
 *   blocks], and a group's scale is the product of both
 * - `zeroCodes`: u4 or u8 [rows, groups], where such a source has minima: `zeros` are then f16 [rows, blocks]
 * - `order`: i32 [columns], the input that each column of the codes belongs to, where columns were sorted so
 *   that those of a group are adjacent
 */
export type GroupPart = 'codes' | 'scales' | 'zeros' | 'scaleCodes' | 'zeroCodes' | 'order';

/** Where a matrix quantized in groups comes from; `models/group` reads it. A group as wide as the matrix is one per row. */
export type GroupSource =
  /**
   * Floats of the checkpoint, [rows, columns], rounded on import. Symmetric: scale = the value of largest
   * magnitude / -2^(bits-1), and code 2^(bits-1) is 0. Asymmetric: scale = (max - min) / (2^bits - 1) with 0
   * among the values, and `zeros` says which code is 0.
   */
  | {
      readonly format: 'round';
      readonly tensor: string;
      readonly bits: CodeBits;
      readonly group: number;
      readonly symmetric: boolean;
    }
  /**
   * Floats of the checkpoint, [rows, columns], rounded to trits as BitNet b1.58 does: with s = 1 / max(mean |w|, 1e-5)
   * of a group's weights or of all of the tensor's, codes are 2 + clamp(round(w s), -1, 1), and the scale is 1 / s.
   */
  | {
      readonly format: 'absmean';
      readonly tensor: string;
      readonly per: 'tensor' | 'group';
      readonly bits: 2;
      readonly group: number;
    }
  /**
   * Tensors of GPTQ, named `tensor` and what they are: i32 qweight [columns bits/32, rows], qzeros [groups,
   * rows bits/32], scales [groups, rows], g_idx [columns]; LSB first, 3 bits as a stream. `zeros`: stored less
   * one (`v1`), as they are (`v2`), or all in the middle (`none`). `order`: columns are sorted by their groups,
   * which are those of that other matrix.
   */
  | {
      readonly format: 'gptq';
      readonly tensor: string;
      readonly bits: Exclude<CodeBits, 1 | 6>;
      readonly group: number;
      readonly zeros: 'v1' | 'v2' | 'none';
      readonly order?: string;
    }
  /**
   * Tensors of AWQ: qweight [columns, rows/8] of 4 bits, qzeros [groups, rows/8], scales [groups, rows]; nibble i
   * of a word is row 0, 2, 4, 6, 1, 3, 5, 7 of eight.
   */
  | { readonly format: 'awq'; readonly tensor: string; readonly bits: 4; readonly group: number }
  /**
   * Parts as they are: u8 codes `tensor`, floats `tensor_scales` and, with minima, `tensor_minima`. With blocks of so
   * many columns these are theirs, and `tensor_scaleCodes` and `tensor_minimumCodes` those of groups, a byte each.
   */
  | {
      readonly format: 'parts';
      readonly tensor: string;
      readonly bits: CodeBits;
      readonly group: number;
      readonly minima: boolean;
      readonly block?: number;
    };

export type CodeBits = 1 | 2 | 3 | 4 | 6 | 8;

/**
 * Llama 3.1's stretching of the rotary frequencies: wavelengths longer than originalContext / lowFactor are
 * multiplied by `factor`, those shorter than originalContext / highFactor stay, and between the two the
 * frequency is interpolated linearly.
 */
export interface RopeScaling {
  readonly factor: number;
  readonly lowFactor: number;
  readonly highFactor: number;
  readonly originalContext: number;
}

export interface Constant extends Value {
  readonly source: WeightSource;
  /** How the weight lies in memory; set by the pass `choose-encodings` on what kernels read packed. */
  readonly encoding?: string;
}

/**
 * A model's forward step. Attention is stateful: it appends to and reads the KV cache of its `layer`;
 * the absolute position of the first token of the step is implicit.
 */
export interface Graph {
  readonly name: string;
  readonly inputs: readonly Value[];
  readonly constants: readonly Constant[];
  readonly nodes: readonly Node[];
  /** Names of the values the step returns: the logits, [outputs, vocab]. */
  readonly outputs: readonly string[];
}

/*
Operators (t = 'tokens' or 'outputs'; the registry holds schema, shape rule and float64 reference of each):

as importers write them
  embedding(tokens i32[tokens], table float[vocab, h]) -> f32[tokens, h]
  rmsNorm(x f32[t, k], weight f32[k]) {eps} -> f32[t, k]
  quantize(x f32[t, k]) -> q i8[t, k], scale f32[t], sum i32[t]
      amax = max(max|x|, 1e-5); q = clamp(round-half-even(x * (127/amax)), -128, 127); scale = amax/127; sum = sum of q
  lowbit.matmul(q i8[t, k], scale f32[t], sum i32[t], weight ternary[m, k], weightScale f32[m]) -> f32[t, m]
      y = (sum over k of q * w) * weightScale[row] * scale[token]; `sum` serves kernels with unsigned codes
  slice(x f32[t, k]) {start, length} -> f32[t, length]                 along the last axis
  rope(x f32[tokens, heads*headDim], table f32[positions, headDim]) {heads, headDim, style: 'half' | 'interleaved'}
  attention(q f32[tokens, heads*headDim], k f32[tokens, kvHeads*headDim], v likewise)
      {layer, heads, kvHeads, headDim, window?} -> f32[tokens, heads*headDim]   causal, scaled by 1/sqrt(headDim)
      with a window, only the last so many positions, the token's own among them
  gate(gate f32[t, k], up f32[t, k]) {act: 'relu2' | 'silu' | 'gelu'} -> f32[t, k]
  add(a, b) -> f32[t, k]
  bias(x f32[t, k], bias f32[k]) -> f32[t, k]                          the same row added to all rows
  scale(x f32[t, k]) {factor} -> f32[t, k]
  rmsNorm.heads(x f32[t, k], weight f32[n]) {headDim, eps} -> f32[t, k]
      each headDim of the first n columns normed by themselves; the others as they are
  selectOutputs(x f32[tokens, k]) -> f32[outputs, k]                   the tokens whose logits are wanted
  matmul(x f32[t, k], table float[m, k]) -> f32[t, m]                  the output head; table may be the embedding
  quantize.group(x f32[t, k], order i32[k]?) {group, to: 'int8' | 'int16' | 'sums', from?: 'f32' | 'f16' | 'int8'}
      -> q i8|i16[t, k], scale f32[t, a], sum i32[t, a]
      per group of columns, a = ceil(k / group) of them; column i of q is that of x, or of x[order[i]]
      int8: as quantize; int16: amax = max|x| of the group, q = round-half-even(x * (16256/amax))
      sums: i8 in the smallest steps in which magnitudes of 4 adjacent columns add up to at most 255 (see the operator)
  lowbit.matmul.group(q, scale, sum, weight u1..u8[m, k], weightScale f16|f32[m, g], zeros u8|f16|f32[m, g]?)
      {group, activationGroup, zero, byteSums?} -> f32[t, m]    g = ceil(k / group), a = ceil(k / activationGroup)
      y = sum over groups of weightScale * (sum over its activation groups of scale * (sum of code*q - zero * sum))
      zero is zeros[row, group] where they are integers, else the attribute; float zeros z: minus z * scale * sum
  quantize.blocks(x f32[t, k]) {group, block, to: 'int8' | 'int16'} -> q i8|i16[t, k], scale f32[t, b], sum i32[t, g]
      quantize.group with groups as wide as blocks, b = k / block of them, and sums of g = k / group narrower groups
  lowbit.matmul.blocks(q, scale, sum, weight u2..u6[m, k], weightScale f16[m, b], scaleCodes u4|u8|i8[m, g],
      zeros f16[m, b]?, zeroCodes u4|u8[m, g]?) {group, block, zero} -> f32[t, m]
      weights are weightScale * scaleCode * (code - zero), or less zeros * zeroCode

as passes leave them for kernels
  rmsNorm.quantize(x f32[t, k], weight f32[k]) {eps} -> q, scale, sum
  lowbit.matmul.add(q, scale, sum, weight, weightScale, residual f32[t, m]) -> f32[t, m]
  rmsNorm.quantize.group(x f32[t, k], weight f32[k], order i32[k]?) {eps, group, to, from?} -> q, scale, sum
  lowbit.matmul.group.add(q, scale, sum, weight, weightScale, residual f32[t, m], zeros?) -> f32[t, m]
  lowbit.matmul.blocks.add(q, scale, sum, weight, weightScale, residual f32[t, m], scaleCodes, zeros?, zeroCodes?)
  columns(a f32[t, ka], b f32[t, kb], c f32[t, kc]?) -> f32[t, ka + kb + kc]   side by side
  attention.packed(qkv f32[tokens, (heads + 2 kvHeads) * headDim], table f32[positions, headDim])
      {layer, heads, kvHeads, headDim, style, window?} -> f32[tokens, heads*headDim]   rope on q and k, then attention
  gate.packed(gateUp f32[t, 2k]) {act} -> f32[t, k]                    gate half first
*/
