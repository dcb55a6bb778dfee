/**
 * The graph that all supported models share: a Llama-shaped decoder, its projections ternary, in codes or in floats.
 *
 * ```
 * h = x + Wo subNorm(attention(rope(Wq n), rope(Wk n), Wv n))      n = norm(x)
 * y = h + Wdown subNorm(act(Wgate n) * (Wup n))                    n = norm(h)
 * ```
 *
 * Every projection quantizes its input; the passes find out that some inputs are the same.
 */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { narrowFloats, widenHalves } from '../common/halves.ts';
import { GraphBuilder } from '../graph/builder.ts';
import type { Attrs, CodeBits, Graph, GroupSource, WeightSource } from '../graph/ir.ts';
import { tensor } from '../graph/types.ts';
import type { DecoderConfig } from './config.ts';
import { absMeanScaleType } from './group/absmean.ts';
import { scalesDType } from './group/gptq.ts';
import { groupCount, middleCode } from './group/matrix.ts';
import type {
  ActivationForm,
  GroupQuantization,
  MatrixCodes,
  ModelInfo,
  ParameterCounts,
  Quantization,
} from './info.ts';
import type { Rope } from './rope-config.ts';
import { demandTensor, FLOAT_DTYPES, type StoredFloats } from './tensors.ts';

/** Where one architecture differs from another. */
export interface DecoderForm {
  readonly architecture: string;
  readonly quantization: Quantization;
  /** Names of the norms before o_proj and down_proj, under `self_attn` and `mlp`. */
  readonly subNorms?: { readonly attention: string; readonly feedForward: string };
  /** Projections with a bias. */
  readonly biases?: { readonly qkv?: boolean; readonly output?: boolean; readonly mlp?: boolean };
  /** Whether every projection norms its input first: `q_proj.norm` and so on, as in BitNet embedding models. */
  readonly inputNorms?: boolean;
  /** Whether heads of queries and of keys are normed by themselves: `q_norm` and `k_norm`. */
  readonly headNorms?: boolean;
  /** Whether projections of one input are stored as one: `qkv_proj` and `gate_up_proj`. */
  readonly fused?: boolean;
  /** Layers whose tokens see only the last so many positions, in which they may turn by other angles. */
  readonly sliding?: { readonly window: number; readonly layers: readonly boolean[]; readonly rope?: Rope };
  /** Gemma's: norms have weights less 1, and there are two more in a layer, after attention and after feed-forward. */
  readonly gemmaNorms?: boolean;
  /** Whether embeddings are multiplied by sqrt(hidden), rounded as the table is. */
  readonly scaledEmbedding?: boolean;
  /** Scores are scaled by 1 / sqrt of this instead of the head size; only with `headNorms`. */
  readonly queryScalar?: number;
}

export interface ImportedModel {
  readonly graph: Graph;
  readonly info: ModelInfo;
}

/**
 * Columns of activations that share a scale: those of the weights where that is no more than 128. More would cost
 * accuracy, fewer time.
 */
function chooseActivationGroup(group: number, cols: number): number {
  return [128, 64, 32].find((size) => group >= cols || group % size === 0) ?? 16;
}

/** How activations are quantized, and what the product with them has to know of that. */
function activationAttrs({ activations, byteSums = false }: ActivationForm): {
  readonly rounding: Attrs;
  readonly sums: Attrs;
} {
  if (!byteSums) return { rounding: { to: activations }, sums: {} };
  const from: Attrs = activations === 'f32' ? {} : { from: activations };
  return { rounding: { to: 'sums', ...from }, sums: { byteSums } };
}

/** Writes the parts of the graph, taking each tensor from the checkpoint only after a look at its header. */
class DecoderWriter {
  readonly #checkpoint: Checkpoint;
  readonly #config: DecoderConfig;
  readonly #form: DecoderForm;
  readonly #g: GraphBuilder;
  /** What names of tensors begin with: nothing in checkpoints of models without a head. */
  readonly #root: 'model.' | '';
  readonly #used = new Set<string>();
  /** By input: the matrix whose order of columns is that of all, and the constant that has it. */
  readonly #orders = new Map<string, string>();
  readonly #orderConstants = new Map<string, string>();
  readonly #counts = { ternary: 0, projections: 0, tables: 0, norms: 0 };

  constructor(checkpoint: Checkpoint, config: DecoderConfig, form: DecoderForm, name: string) {
    this.#checkpoint = checkpoint;
    this.#config = config;
    this.#form = form;
    this.#g = new GraphBuilder(name);
    this.#root = checkpoint.tensors.has('embed_tokens.weight') ? '' : 'model.';
  }

  get counts(): ParameterCounts {
    const { projections, ...counts } = this.#counts;
    return projections === 0 ? counts : { ...counts, projections };
  }

  #demand(name: string, dtypes: Parameters<typeof demandTensor>[2]['dtypes'], shapes: readonly number[][]) {
    this.#used.add(name);
    return demandTensor(this.#checkpoint, name, { dtypes, shapes });
  }

  #table(name: string, stored: string): string {
    const { vocab, hidden } = this.#config;
    const info = this.#demand(stored, FLOAT_DTYPES, [[vocab, hidden]]);
    this.#counts.tables += vocab * hidden;
    const type = tensor(info.dtype as StoredFloats['dtype'], vocab, hidden);
    return this.#g.constant(name, type, { kind: 'tensor', tensor: stored });
  }

  #norm(x: string, stored: string, width: number, name: string): string {
    const from = `${stored}.weight`;
    this.#demand(from, FLOAT_DTYPES, [[width]]);
    this.#counts.norms += width;
    const source: WeightSource =
      this.#form.gemmaNorms === true
        ? { kind: 'adjusted', tensor: from, plus: 1, factor: 1, times: 1 }
        : { kind: 'tensor', tensor: from };
    const weight = this.#g.constant(`${name}.weight`, tensor('f32', width), source);
    return this.#g.op('rmsNorm', [x, weight], { eps: this.#config.normEps }, name);
  }

  /** Norms every head of x by itself; what the norm multiplies by may include a scale. */
  #headNorm(x: string, stored: string, heads: number, factor: number, name: string): string {
    const { headDim, normEps } = this.#config;
    const from = `${stored}.weight`;
    this.#demand(from, FLOAT_DTYPES, [[headDim]]);
    this.#counts.norms += headDim;
    const plus = this.#form.gemmaNorms === true ? 1 : 0;
    const weight = this.#g.constant(`${name}.weight`, tensor('f32', heads * headDim), {
      kind: 'adjusted',
      tensor: from,
      plus,
      factor,
      times: heads,
    });
    return this.#g.op('rmsNorm.heads', [x, weight], { headDim, eps: normEps }, name);
  }

  /**
   * Adds a projection's bias. Files of GPTQ and AWQ may have one, of zeros for the most part, where the architecture
   * has none.
   */
  #bias(x: string, stored: string, rows: number, expected: boolean, name: string): string {
    const from = `${stored}.bias`;
    const extra = this.#form.quantization.form === 'groups' && this.#checkpoint.tensors.has(from);
    if (!expected && !extra) return x;
    this.#demand(from, FLOAT_DTYPES, [[rows]]);
    this.#counts.norms += rows;
    const row = this.#g.constant(`${name}Bias.row`, tensor('f32', rows), { kind: 'tensor', tensor: from });
    return this.#g.op('bias', [x, row], {}, `${name}Bias`);
  }

  /** The sources of a projection's trits and of their scale. */
  #ternary(
    stored: string,
    rows: number,
    cols: number,
    quantization: Extract<Quantization, { readonly form: 'packed' | 'online' }>,
  ): readonly [WeightSource, WeightSource] {
    const weight = `${stored}.weight`;
    if (quantization.form === 'online') {
      this.#demand(weight, FLOAT_DTYPES, [[rows, cols]]);
      return [
        { kind: 'absmean-ternary', tensor: weight },
        { kind: 'absmean-scale', tensor: weight, rows },
      ];
    }
    if (rows % 4 !== 0) {
      throw new LutraError('unsupported', `${weight} has ${rows} rows: packed weights have a multiple of 4`);
    }
    const scale = `${stored}.weight_scale`;
    this.#demand(weight, ['u8'], [[rows / 4, cols]]);
    this.#demand(scale, FLOAT_DTYPES, [[1], [], [1, 1]]);
    return [
      { kind: 'packed-ternary', tensor: weight },
      { kind: 'scale', tensor: scale, direction: quantization.direction, rows },
    ];
  }

  #floatLinear(x: string, stored: string, rows: number, cols: number, name: string): string {
    const source = `${stored}.weight`;
    const { dtype } = this.#demand(source, FLOAT_DTYPES, [[rows, cols]]);
    this.#counts.projections += rows * cols;
    const type = tensor(dtype as StoredFloats['dtype'], rows, cols);
    const weight = this.#g.constant(`${name}.weight`, type, { kind: 'tensor', tensor: source });
    return this.#g.op('matmul', [x, weight], {}, name);
  }

  /** Where a projection's codes are, after a look at their headers. */
  #groupSource(
    x: string,
    stored: string,
    rows: number,
    cols: number,
    quantization: GroupQuantization,
  ): GroupSource {
    const { format, bits, symmetric, zeros = 'v1', ordered = false } = quantization;
    const group = typeof quantization.group === 'number' ? quantization.group : cols;
    const groups = groupCount(cols, group);
    if (format === 'round' || format === 'absmean') {
      const weight = `${stored}.weight`;
      this.#demand(weight, FLOAT_DTYPES, [[rows, cols]]);
      if (format === 'round') return { format, tensor: weight, bits, group, symmetric };
      const per = quantization.group === 'tensor' ? 'tensor' : 'group';
      return { format, tensor: weight, per, bits: 2, group };
    }
    const word = (count: number) => Math.ceil((count * bits) / 32);
    this.#demand(`${stored}.scales`, FLOAT_DTYPES, [[groups, rows]]);
    if (format === 'awq') {
      this.#demand(`${stored}.qweight`, ['i32'], [[cols, word(rows)]]);
      this.#demand(`${stored}.qzeros`, ['i32'], [[groups, word(rows)]]);
      return { format, tensor: stored, bits: 4, group };
    }
    this.#demand(`${stored}.qweight`, ['i32'], [[word(cols), rows]]);
    this.#demand(`${stored}.qzeros`, ['i32'], [[groups, word(rows)]]);
    const hasIndex = this.#checkpoint.tensors.has(`${stored}.g_idx`);
    if (ordered || hasIndex) this.#demand(`${stored}.g_idx`, ['i32'], [[cols]]);
    // Projections of one input have one order: that of the first.
    if (ordered && !this.#orders.has(x)) this.#orders.set(x, stored);
    return {
      format,
      tensor: stored,
      bits: bits as Exclude<CodeBits, 1 | 6>,
      group,
      zeros: symmetric ? 'none' : zeros,
      ...(ordered ? { order: this.#orders.get(x)! } : {}),
    };
  }

  #scaleType(of: GroupSource, stored: string, rows: number, groups: number): 'f16' | 'f32' {
    if (of.format === 'round') return 'f16';
    if (of.format === 'absmean') return absMeanScaleType(of.per);
    return scalesDType(this.#checkpoint, stored, groups, rows);
  }

  /** The constant that says in which order a product takes the columns of its input. */
  #order(x: string, of: GroupSource, cols: number, name: string): readonly string[] {
    if (of.format !== 'gptq' || of.order === undefined) return [];
    const known = this.#orderConstants.get(x);
    if (known !== undefined) return [known];
    const order = this.#g.constant(`${name}.order`, tensor('i32', cols), { kind: 'order', of });
    this.#orderConstants.set(x, order);
    return [order];
  }

  #groupLinear(
    x: string,
    stored: string,
    rows: number,
    cols: number,
    name: string,
    quantization: GroupQuantization,
  ): string {
    const g = this.#g;
    const { bits, symmetric } = quantization;
    this.#counts.projections += rows * cols;
    const group = typeof quantization.group === 'number' ? quantization.group : cols;
    const groups = groupCount(cols, group);
    const of = this.#groupSource(x, stored, rows, cols, quantization);
    const scaleType = this.#scaleType(of, stored, rows, groups);
    const weight = g.constant(`${name}.weight`, tensor(`u${bits}`, rows, cols), { kind: 'codes', of });
    const scales = g.constant(`${name}.weightScale`, tensor(scaleType, rows, groups), { kind: 'scales', of });
    const zeros = symmetric
      ? []
      : [g.constant(`${name}.zeros`, tensor('u8', rows, groups), { kind: 'zeros', of })];
    const activationGroup = chooseActivationGroup(group, cols);
    const input = [x, ...this.#order(x, of, cols, name)];
    const { rounding, sums } = activationAttrs(quantization);
    const quantized = g.opAll('quantize.group', input, { group: activationGroup, ...rounding }, `${name}.in`);
    const attrs = { group, activationGroup, zero: symmetric ? middleCode(bits) : 0, ...sums };
    return g.op('lowbit.matmul.group', [...quantized, weight, scales, ...zeros], attrs, name);
  }

  #partsLinear(
    x: string,
    stored: string,
    rows: number,
    cols: number,
    name: string,
    codes: MatrixCodes,
    form: ActivationForm,
  ): string {
    const g = this.#g;
    const { bits, group, zero, block } = codes;
    if (block !== undefined)
      return this.#blocksLinear(x, stored, rows, cols, name, { ...codes, block }, form);
    const minima = zero === undefined;
    const source = `${stored}.weight`;
    const shape = [rows, groupCount(cols, group)] as const;
    const of: GroupSource = { format: 'parts', tensor: source, bits, group, minima };
    this.#demand(source, ['u8'], [[rows, cols]]);
    this.#counts.projections += rows * cols;
    const { dtype } = this.#demand(`${source}_scales`, ['f16', 'f32'], [[...shape]]);
    const scaleType = tensor(dtype as 'f16' | 'f32', ...shape);
    const weight = g.constant(`${name}.weight`, tensor(`u${bits}`, rows, cols), { kind: 'codes', of });
    const constants = [weight, g.constant(`${name}.weightScale`, scaleType, { kind: 'scales', of })];
    if (minima) {
      this.#demand(`${source}_minima`, ['f32'], [[...shape]]);
      constants.push(g.constant(`${name}.zeros`, tensor('f32', ...shape), { kind: 'zeros', of }));
    }
    const activationGroup = chooseActivationGroup(group, cols);
    const { rounding, sums } = activationAttrs(form);
    const quantized = g.opAll('quantize.group', [x], { group: activationGroup, ...rounding }, `${name}.in`);
    const attrs = { group, activationGroup, zero: zero ?? 0, ...sums };
    return g.op('lowbit.matmul.group', [...quantized, ...constants], attrs, name);
  }

  #blocksLinear(
    x: string,
    stored: string,
    rows: number,
    cols: number,
    name: string,
    { bits, group, block, scaleCodes = 'u8', zero }: MatrixCodes & { readonly block: number },
    { activations }: ActivationForm,
  ): string {
    const g = this.#g;
    const minima = zero === undefined;
    const source = `${stored}.weight`;
    const [ofBlocks, ofGroups] = [
      [rows, cols / block],
      [rows, cols / group],
    ] as const;
    const of: GroupSource = { format: 'parts', tensor: source, bits, group, minima, block };
    this.#demand(source, ['u8'], [[rows, cols]]);
    this.#counts.projections += rows * cols;
    const floats = (part: 'scales' | 'zeros', file: string, constant: string) => {
      this.#demand(`${source}_${file}`, ['f16'], [[...ofBlocks]]);
      return g.constant(`${name}.${constant}`, tensor('f16', ...ofBlocks), { kind: part, of });
    };
    const codes = (part: 'scaleCodes' | 'zeroCodes', file: string) => {
      this.#demand(`${source}_${file}`, ['u8'], [[...ofGroups]]);
      return g.constant(`${name}.${part}`, tensor(scaleCodes, ...ofGroups), { kind: part, of });
    };
    const weight = g.constant(`${name}.weight`, tensor(`u${bits}`, rows, cols), { kind: 'codes', of });
    const constants = [weight, floats('scales', 'scales', 'weightScale'), codes('scaleCodes', 'scaleCodes')];
    if (minima) constants.push(floats('zeros', 'minima', 'zeros'), codes('zeroCodes', 'minimumCodes'));
    // There are no tables for blocks: what would be floats there is int16.
    const to = activations === 'int8' ? 'int8' : 'int16';
    const quantized = g.opAll('quantize.blocks', [x], { group, block, to }, `${name}.in`);
    return g.op(
      'lowbit.matmul.blocks',
      [...quantized, ...constants],
      { group, block, zero: zero ?? 0 },
      name,
    );
  }

  #linear(x: string, stored: string, rows: number, cols: number, name: string, biased = false): string {
    const input =
      this.#form.inputNorms === true ? this.#norm(x, `${stored}.norm`, cols, `${name}.inNorm`) : x;
    return this.#bias(this.#product(input, stored, rows, cols, name), stored, rows, biased, name);
  }

  #product(x: string, stored: string, rows: number, cols: number, name: string): string {
    const g = this.#g;
    const { quantization } = this.#form;
    if (quantization.form === 'float') return this.#floatLinear(x, stored, rows, cols, name);
    if (quantization.form === 'groups') return this.#groupLinear(x, stored, rows, cols, name, quantization);
    if (quantization.form === 'mixed') {
      const codes = quantization.matrices[`${stored}.weight`];
      if (codes === undefined) return this.#floatLinear(x, stored, rows, cols, name);
      return this.#partsLinear(x, stored, rows, cols, name, codes, quantization);
    }
    const [trits, scales] = this.#ternary(stored, rows, cols, quantization);
    this.#counts.ternary += rows * cols;
    const weight = g.constant(`${name}.weight`, tensor('ternary', rows, cols), trits);
    const weightScale = g.constant(`${name}.weightScale`, tensor('f32', rows), scales);
    const quantized = g.opAll('quantize', [x], {}, `${name}.in`);
    return g.op('lowbit.matmul', [...quantized, weight, weightScale], {}, name);
  }

  /** Several projections of one input: stored one by one, or as one of which each has some columns. */
  #projections(
    x: string,
    stored: string,
    together: string,
    parts: readonly { readonly stored: string; readonly rows: number; readonly name: string }[],
    prefix: string,
    biased: boolean,
  ): readonly string[] {
    const { hidden } = this.#config;
    if (this.#form.fused !== true) {
      return parts.map(({ stored: part, rows, name }) =>
        this.#linear(x, `${stored}.${part}`, rows, hidden, `${prefix}.${name}`, biased),
      );
    }
    const all = parts.reduce((sum, { rows }) => sum + rows, 0);
    const name = `${prefix}.${parts.map((part) => part.name).join('_')}`;
    const whole = this.#linear(x, `${stored}.${together}`, all, hidden, name, biased);
    let start = 0;
    return parts.map(({ rows: length, name: part }) => {
      const sliced = this.#g.op('slice', [whole], { start, length }, `${prefix}.${part}`);
      start += length;
      return sliced;
    });
  }

  #attention(x: string, tables: readonly [string, string], layer: number, prefix: string): string {
    const g = this.#g;
    const { hidden, heads, kvHeads, headDim } = this.#config;
    const { subNorms, biases, headNorms, sliding, queryScalar = headDim } = this.#form;
    const stored = `${this.#root}layers.${layer}.self_attn`;
    const subNorm = subNorms?.attention;
    const [width, kvWidth] = [heads * headDim, kvHeads * headDim];
    const parts = [
      { stored: 'q_proj', rows: width, name: 'q' },
      { stored: 'k_proj', rows: kvWidth, name: 'k' },
      { stored: 'v_proj', rows: kvWidth, name: 'v' },
    ];
    let [q, k, v] = this.#projections(x, stored, 'qkv_proj', parts, prefix, biases?.qkv === true);
    if (headNorms === true) {
      const factor = Math.sqrt(headDim / queryScalar);
      q = this.#headNorm(q!, `${stored}.q_norm`, heads, factor, `${prefix}.qNorm`);
      k = this.#headNorm(k!, `${stored}.k_norm`, kvHeads, 1, `${prefix}.kNorm`);
    }
    const slides = sliding?.layers[layer] === true;
    const table = tables[slides ? 1 : 0];
    const turn = (value: string, count: number, name: string) =>
      g.op('rope', [value, table], { heads: count, headDim, style: 'half' }, name);
    const turned = [turn(q!, heads, `${prefix}.qRope`), turn(k!, kvHeads, `${prefix}.kRope`)];
    const mixed = g.op(
      'attention',
      [...turned, v!],
      { layer, heads, kvHeads, headDim, ...(slides && { window: sliding.window }) },
      `${prefix}.attention`,
    );
    const normed =
      subNorm === undefined
        ? mixed
        : this.#norm(mixed, `${stored}.${subNorm}`, width, `${prefix}.attnSubNorm`);
    return this.#linear(normed, `${stored}.o_proj`, hidden, width, `${prefix}.o`, biases?.output);
  }

  #feedForward(x: string, layer: number, prefix: string): string {
    const { hidden, intermediate, activation } = this.#config;
    const stored = `${this.#root}layers.${layer}.mlp`;
    const subNorm = this.#form.subNorms?.feedForward;
    const biased = this.#form.biases?.mlp === true;
    const parts = [
      { stored: 'gate_proj', rows: intermediate, name: 'gate' },
      { stored: 'up_proj', rows: intermediate, name: 'up' },
    ];
    const gateAndUp = this.#projections(x, stored, 'gate_up_proj', parts, prefix, biased);
    const gated = this.#g.op('gate', gateAndUp, { act: activation }, `${prefix}.gated`);
    const normed =
      subNorm === undefined
        ? gated
        : this.#norm(gated, `${stored}.${subNorm}`, intermediate, `${prefix}.ffnSubNorm`);
    return this.#linear(normed, `${stored}.down_proj`, hidden, intermediate, `${prefix}.down`, biased);
  }

  #ropeTable(name: string, rope: Rope, positions: number): string {
    const { headDim } = this.#config;
    const { theta, ...more } = rope;
    const source = { kind: 'rope-table', theta, headDim, positions, ...more } as const;
    return this.#g.constant(name, tensor('f32', positions, headDim), source);
  }

  #embedded(tokens: string, embed: string): string {
    const g = this.#g;
    const rows = g.op('embedding', [tokens, embed], {}, 'embedded');
    if (this.#form.scaledEmbedding !== true) return rows;
    const { dtype } = g.typeOf(embed);
    const exact = Float32Array.of(Math.sqrt(this.#config.hidden));
    const factor =
      dtype === 'f16' || dtype === 'bf16' ? widenHalves(narrowFloats(exact, dtype), dtype) : exact;
    return g.op('scale', [rows], { factor: factor[0]! }, 'scaled');
  }

  /** The embedding's table, one of its own, or codes like those of projections. */
  #head(x: string, embed: string): string {
    const { hidden, vocab, tied } = this.#config;
    const { quantization } = this.#form;
    const codes = quantization.form === 'mixed' ? quantization.matrices['lm_head.weight'] : undefined;
    if (!tied && codes !== undefined && quantization.form === 'mixed') {
      return this.#partsLinear(x, 'lm_head', vocab, hidden, 'logits', codes, quantization);
    }
    const table = tied ? embed : this.#table('head', 'lm_head.weight');
    return this.#g.op('matmul', [x, table], {}, 'logits');
  }

  /** `positions`: rows of the rotation table. */
  write(positions: number): Graph {
    const g = this.#g;
    const { hidden, rope, layers } = this.#config;
    const { gemmaNorms, sliding } = this.#form;
    const tokens = g.input('tokens', 'i32', ['tokens']);
    const embed = this.#table('embed', `${this.#root}embed_tokens.weight`);
    const table = this.#ropeTable('rope', rope, positions);
    const local = sliding?.rope === undefined ? table : this.#ropeTable('ropeLocal', sliding.rope, positions);
    let x = this.#embedded(tokens, embed);
    for (let layer = 0; layer < layers; layer++) {
      const prefix = `l${layer}`;
      const stored = `${this.#root}layers.${layer}`;
      const norm = (value: string, from: string, name: string) =>
        this.#norm(value, `${stored}.${from}`, hidden, `${prefix}.${name}`);
      const attnIn = norm(x, 'input_layernorm', 'attnNorm');
      let mixed = this.#attention(attnIn, [table, local], layer, prefix);
      if (gemmaNorms === true) mixed = norm(mixed, 'post_attention_layernorm', 'attnPostNorm');
      x = g.op('add', [mixed, x], {}, `${prefix}.h`);
      const before = gemmaNorms === true ? 'pre_feedforward_layernorm' : 'post_attention_layernorm';
      let fed = this.#feedForward(norm(x, before, 'ffnNorm'), layer, prefix);
      if (gemmaNorms === true) fed = norm(fed, 'post_feedforward_layernorm', 'ffnPostNorm');
      x = g.op('add', [fed, x], {}, `${prefix}.out`);
    }
    const last = g.op('selectOutputs', [x], {}, 'selected');
    const normed = this.#norm(last, `${this.#root}norm`, hidden, 'norm');
    return g.build([this.#head(normed, embed)]);
  }

  /** Refuses tensors that the graph does not use: the model is not what its config says, or more than that. */
  checkLeftovers(): void {
    const harmless = (name: string) =>
      name.endsWith('.rotary_emb.inv_freq') || (this.#config.tied && name === 'lm_head.weight');
    const left = [...this.#checkpoint.tensors.keys()].filter(
      (name) => !this.#used.has(name) && !harmless(name),
    );
    if (left.length === 0) return;
    const shown = left.slice(0, 3).join(', ');
    const more = left.length > 3 ? ` and ${left.length - 3} more` : '';
    const what = left.some((name) => name.endsWith('.bias')) ? 'biases' : 'tensors';
    throw new LutraError(
      'unsupported',
      `${this.#checkpoint.path} has ${what} that a model of the architecture ${this.#form.architecture} has not: ${shown}${more}`,
      {
        hint: 'The model differs from what lutra knows by that name; ignoring these would give wrong answers.',
      },
    );
  }
}

/** `org/name` from a path on the hub or inside its cache, else the last part of the path. */
export function modelName(path: string): string {
  const [, remote] = /^hf:([^/@]+(?:\/[^/@]+)?)/.exec(path) ?? [];
  if (remote !== undefined) return remote;
  const parts = path.split(/[\\/]/).filter((part) => part !== '');
  const cached = parts.findLast((part) => part.startsWith('models--'));
  return cached === undefined
    ? (parts.at(-1) ?? 'model').replace(/(-\d{5}-of-\d{5})?\.gguf$/, '')
    : cached.slice('models--'.length).replace('--', '/');
}

/** Writes the graph of a decoder; `context` limits the positions it can compute. */
export function importDecoder(
  checkpoint: Checkpoint,
  config: DecoderConfig,
  form: DecoderForm,
  context: number | undefined,
): ImportedModel {
  const name = modelName(checkpoint.path);
  const writer = new DecoderWriter(checkpoint, config, form, name);
  const graph = writer.write(Math.min(config.maxContext, context ?? config.maxContext));
  writer.checkLeftovers();
  const { rope: _, biases: __, ...shape } = config;
  // A head of codes is no table: the embedding is the only one.
  const table = (name: string) => graph.constants.find((constant) => constant.name === name);
  const head = (config.tied ? undefined : table('head')) ?? table('embed')!;
  return {
    graph,
    info: {
      architecture: form.architecture,
      name,
      ...shape,
      subNorms: form.subNorms !== undefined,
      quantization: form.quantization,
      parameters: { ...writer.counts },
      headDType: head.type.dtype as ModelInfo['headDType'],
    },
  };
}
