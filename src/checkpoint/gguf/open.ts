/**
 * Opens GGUF files as checkpoints: with the names, dtypes and shapes that the same model has in Hugging
 * Face's form, so that nothing after this room knows where a model is from. Tensors are read and
 * converted one at a time, when they are asked for.
 */
import { LutraError } from '../../common/errors.ts';
import type { Checkpoint, TensorInfo } from '../checkpoint.ts';
import { fileFailure, malformed, quote } from '../failure.ts';
import type { ByteSource } from '../source.ts';
import {
  type BlockFactors,
  decodeGroups,
  dequantizeGroups,
  GROUPED,
  type GroupedCodes,
  type GroupedForm,
  type GroupedType,
} from './groups.ts';
import { type GgufHeader, type GgufTensor, MAX_HEADER_BYTES, parseGgufHeader } from './header.ts';
import { guessOrder, type OrderEvidence } from './i2s-order.ts';
import { scaleNames, type TensorRole, tensorRole } from './names.ts';
import {
  architectureOf,
  generationConfig,
  isBitnet,
  type Metadata,
  modelConfig,
  type TensorFacts,
} from './read-config.ts';
import { vocabularyFiles } from './read-vocabulary.ts';
import { decodeTernary, floatsOf, halfBytes, type I2sOrder, packTrits } from './ternary.ts';
import { ggufBytes, TAILED } from './types.ts';

export interface GgufOptions {
  /** How blocks of I2_S are ordered; default: as the weights tell, or else as in the published files, `x86`. */
  readonly i2sOrder?: I2sOrder;
}

/** Many headers are shorter; the rest is read when it turns out that it is needed. */
const FIRST_READ = 1024 * 1024;

/** A tensor and the file it is in. */
interface Place {
  readonly tensor: GgufTensor;
  readonly source: ByteSource;
}

/**
 * Opens a GGUF file, with all its shards where it is one of several. Only headers are read.
 * @param path the file, for messages
 * @param shards the names of its files, the first one first
 * @throws `not-found` for a missing file, `invalid` for a malformed one, `unsupported` for an architecture,
 *   tokenizer or type of tensor that lutra does not know, by name and number
 */
export async function openGguf(
  path: string,
  shards: readonly string[],
  openShard: (name: string) => Promise<ByteSource>,
  options: GgufOptions = {},
): Promise<Checkpoint> {
  const sources: ByteSource[] = [];
  const close = async () => {
    await Promise.all(sources.map((source) => source.close()));
  };
  try {
    const places = new Map<string, Place>();
    let metadata: Metadata | undefined;
    for (const shard of shards) {
      const source = await openShard(shard);
      sources.push(source);
      const header = await readHeader(source);
      metadata ??= header.metadata;
      for (const tensor of header.tensors) {
        if (places.has(tensor.name)) {
          throw malformed(
            source.path,
            `tensor ${quote(tensor.name)} is in another shard, too`,
            'each tensor once',
          );
        }
        places.set(tensor.name, { tensor, source });
      }
    }
    return await presentModel(path, metadata!, places, options, close);
  } catch (error) {
    await close();
    throw fileFailure(error, 'reading', path);
  }
}

async function readHeader(source: ByteSource): Promise<GgufHeader> {
  const { path, size } = source;
  const limit = Math.min(size, MAX_HEADER_BYTES);
  for (let length = Math.min(limit, FIRST_READ); ; length = Math.min(limit, length * 4)) {
    const header = parseGgufHeader(await source.read(0, length), size, path);
    if (header !== undefined) return header;
    if (length === limit)
      throw malformed(path, 'its header is too long', `at most ${MAX_HEADER_BYTES} bytes`);
  }
}

/** One tensor of the checkpoint: what it looks like, and how its bytes come about. */
interface Presented {
  readonly info: TensorInfo;
  read(): Promise<Uint8Array>;
}

/** For an order that is asked for where nothing has it. */
export function noI2s(path: string): LutraError {
  return new LutraError('usage', `${path} has no weights in I2_S, whose order was given`, {
    hint: 'Leave out the order: it is told from the weights where they tell.',
  });
}

async function presentModel(
  path: string,
  metadata: Metadata,
  places: ReadonlyMap<string, Place>,
  options: GgufOptions,
  close: () => Promise<void>,
): Promise<Checkpoint> {
  const presenter = new Presenter(path, metadata, places, options);
  const presented = await presenter.present();
  const { config } = presenter;
  const generation = generationConfig(metadata);
  const textFiles = new Map([
    ['config.json', JSON.stringify(config)],
    ['generation_config.json', JSON.stringify(generation)],
    ...vocabularyFiles(metadata, path),
  ]);
  let closed = false;
  return {
    path,
    config,
    generationConfig: generation,
    textFiles,
    tensors: new Map(Array.from(presented, ([name, { info }]) => [name, info])),
    async read(name) {
      if (closed) throw new LutraError('usage', `the checkpoint ${path} is closed`);
      const tensor = presented.get(name);
      if (tensor === undefined) {
        throw new LutraError('not-found', `${path} has no tensor ${quote(name)}`, {
          hint: 'The file is incomplete, or is of another architecture than it says.',
        });
      }
      return tensor.read().catch((error: unknown) => {
        throw fileFailure(error, 'reading', path);
      });
    },
    async close() {
      if (closed) return;
      closed = true;
      await close();
    },
  };
}

const HEAD = 'lm_head.weight';

/** The norm whose channels are a matrix's columns. */
const NORM_BEFORE: readonly (readonly [part: string, norm: string])[] = [
  ['attn_q', 'attn_norm'],
  ['attn_k', 'attn_norm'],
  ['attn_v', 'attn_norm'],
  ['attn_output', 'attn_sub_norm'],
  ['ffn_gate', 'ffn_norm'],
  ['ffn_up', 'ffn_norm'],
  ['ffn_down', 'ffn_sub_norm'],
];

const f32Bytes = (values: Float32Array) =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** Llama 3.1's, and Phi 3's for short and for long contexts. */
const ROPE_FACTORS: readonly string[] = [
  'rope_freqs.weight',
  'rope_factors_short.weight',
  'rope_factors_long.weight',
];

class Presenter {
  readonly #path: string;
  readonly #metadata: Metadata;
  readonly #places: ReadonlyMap<string, Place>;
  readonly #asked: I2sOrder | undefined;
  #order: Promise<I2sOrder> | undefined;
  readonly #architecture: string;
  readonly #presented = new Map<string, Presented>();
  /** Scales of ternary matrices whose trits were read. */
  readonly #scales = new Map<string, number>();
  #decoded: { readonly place: Place; readonly codes: Promise<GroupedCodes> } | undefined;
  config: Readonly<Record<string, unknown>> = {};

  constructor(path: string, metadata: Metadata, places: ReadonlyMap<string, Place>, options: GgufOptions) {
    this.#path = path;
    this.#metadata = metadata;
    this.#places = places;
    this.#asked = options.i2sOrder;
    if (this.#asked !== undefined && ![...places.values()].some(({ tensor }) => tensor.type === 'I2_S')) {
      throw noI2s(path);
    }
    this.#architecture = architectureOf(metadata, path);
  }

  async present(): Promise<ReadonlyMap<string, Presented>> {
    const roles = new Map<string, TensorRole>();
    for (const name of this.#places.keys()) {
      const role = tensorRole(name, this.#architecture);
      if (role !== undefined) roles.set(name, role);
    }
    const ternary = this.#isTernary(roles);
    const coded = ternary ? new Map<string, GroupedForm>() : this.#chooseCodes(roles);
    const biased = (part: string) => this.#places.has(`blk.0.${part}.bias`);
    this.config = modelConfig(
      this.#metadata,
      {
        vocab: this.#places.get('token_embd.weight')?.tensor.shape[0] ?? 0,
        tied: !this.#places.has('output.weight'),
        ternary,
        ...(coded.size === 0
          ? {}
          : {
              matrices: Object.fromEntries(
                Array.from(coded, ([name, codes]) => [roles.get(name)!.name, codes]),
              ),
            }),
        ...(await this.#ropeFactors()),
        biases: {
          attention: biased('attn_q') && biased('attn_output'),
          mlp: biased('ffn_up') && biased('ffn_down'),
        },
      },
      this.#path,
    );
    for (const [name, place] of this.#places) {
      const role = roles.get(name);
      if (role === undefined) this.#unknown(name, place);
      else if (role.kind === 'projection' && ternary) this.#presentTernary(place, role);
      else if (coded.has(name)) this.#presentCodes(place, role);
      else this.#presentFloats(place, role);
    }
    return this.#presented;
  }

  /** Numbers by which the frequencies of positions are divided, where files have them. */
  async #ropeFactors(): Promise<Pick<TensorFacts, 'ropeFactors' | 'longFactors'>> {
    const [only, short, long] = ROPE_FACTORS.map((name) => this.#places.get(name));
    if (only !== undefined) return { ropeFactors: await this.#floats(only) };
    if (short === undefined || long === undefined) return {};
    return { longFactors: { short: await this.#floats(short), long: await this.#floats(long) } };
  }

  /** What has no name here must not be overlooked: it keeps its name, which no importer expects. */
  #unknown(name: string, { tensor }: Place): void {
    if (ROPE_FACTORS.includes(name)) return;
    const owner = name.replace(/(\.scale|\.weight_scale)$/, '.weight');
    if (owner !== name && this.#places.has(owner)) return;
    const { shape, begin, end } = tensor;
    this.#add({ name, dtype: 'u8', shape, bytes: end - begin }, async () => {
      throw new LutraError(
        'unsupported',
        `${this.#path}: tensor ${quote(name)} has no place in lutra's models`,
      );
    });
  }

  #add(info: TensorInfo, read: () => Promise<Uint8Array>): void {
    this.#presented.set(info.name, { info, read });
  }

  /** A BitNet's projections are ternary in any type; a Llama's when one of their types can be nothing else. */
  #isTernary(roles: ReadonlyMap<string, TensorRole>): boolean {
    if (isBitnet(this.#architecture)) return true;
    return [...roles].some(([name, role]) => {
      const { type } = this.#places.get(name)!.tensor;
      return (
        role.kind === 'projection' &&
        (type === 'TQ1_0' || type === 'TQ2_0' || (type !== undefined && TAILED.has(type)))
      );
    });
  }

  /**
   * Projections, and a head that is not the embedding, to hand on as codes with scales: those whose groups kernels
   * can compute. The others become floats; so do all three of attention where k alone is another than q and v, as
   * products of one form are computed together and attention reads q, k and v in this order.
   */
  #chooseCodes(roles: ReadonlyMap<string, TensorRole>): Map<string, GroupedForm> {
    const coded = new Map<string, GroupedForm>();
    for (const [name, role] of roles) {
      const { type, shape } = this.#places.get(name)!.tensor;
      if (role.kind !== 'projection' && role.name !== HEAD) continue;
      if (type === undefined || !(type in GROUPED) || shape.length !== 2) continue;
      coded.set(name, GROUPED[type as GroupedType]);
    }
    const formOf = (name: string) => JSON.stringify(coded.get(name) ?? null);
    for (const query of [...roles.keys()].filter((name) => name.endsWith('.attn_q.weight'))) {
      const [key, value] = ['attn_k', 'attn_v'].map((part) => query.replace('attn_q', part));
      if (formOf(query) !== formOf(value!) || formOf(query) === formOf(key!)) continue;
      for (const name of [query, key!, value!]) coded.delete(name);
    }
    // A model of floats that has only its head in codes is one of floats, which may be rounded.
    return [...coded.keys()].some((name) => roles.get(name)!.kind === 'projection') ? coded : new Map();
  }

  #readable({ tensor, source: { path } }: Place): NonNullable<GgufTensor['type']> {
    if (tensor.type !== undefined) return tensor.type;
    throw new LutraError(
      'unsupported',
      `${path}: tensor ${quote(tensor.name)} has the type ${tensor.typeName}`,
      {
        hint: 'Get a conversion of the model to a type that lutra reads: docs/formats.md lists them.',
      },
    );
  }

  #bytes({ tensor, source }: Place): Promise<Uint8Array> {
    return source.read(tensor.begin, tensor.end - tensor.begin);
  }

  async #floats(place: Place): Promise<Float32Array> {
    const type = this.#readable(place);
    const bytes = await this.#bytes(place);
    return type in GROUPED
      ? dequantizeGroups(decodeGroups(type as GroupedType, bytes))
      : floatsOf(type, bytes);
  }

  #presentTernary(place: Place, { name, part }: TensorRole): void {
    const { tensor } = place;
    const { path } = place.source;
    const type = this.#readable(place);
    const [rows = 0, cols = 0] = tensor.shape;
    if (tensor.shape.length !== 2 || rows % 4 !== 0) {
      throw new LutraError(
        'unsupported',
        `${path}: tensor ${quote(tensor.name)} has the shape [${tensor.shape.join(', ')}]`,
        { hint: 'Ternary matrices must have a multiple of 4 rows.' },
      );
    }
    const matrix = async () => {
      if (type === 'I2_S') this.#order ??= this.#findOrder();
      const order = (await this.#order) ?? 'x86';
      const request = { type, rows, cols, tensor: tensor.name, order };
      const { trits, scale } = decodeTernary(await this.#bytes(place), request);
      this.#scales.set(tensor.name, scale);
      return { trits, scale };
    };
    this.#add({ name, dtype: 'u8', shape: [rows / 4, cols], bytes: (rows / 4) * cols }, async () => {
      const { trits } = await matrix();
      const order = this.#rowOrder(part, rows);
      return packTrits(order === undefined ? trits : gatherRows(trits, cols, order));
    });
    const scaleName = `${name}_scale`;
    this.#add({ name: scaleName, dtype: 'f32', shape: [1], bytes: 4 }, async () => {
      const own = this.#scales.get(tensor.name) ?? (await matrix()).scale;
      // llama.cpp's tensor `.scale` multiplies what the blocks say; bitnet.cpp's is the tail, told again.
      const apart = TAILED.has(type) ? undefined : this.#places.get(scaleNames(tensor.name)[0]!);
      const factor = apart === undefined ? 1 : (await this.#floats(apart))[0]!;
      return f32Bytes(Float32Array.of(own * factor));
    });
  }

  /** Looks at the matrices of up to four layers. */
  async #findOrder(): Promise<I2sOrder> {
    if (this.#asked !== undefined) return this.#asked;
    const layers = this.config.num_hidden_layers as number;
    const evidence: OrderEvidence[] = [];
    for (const layer of new Set([0, 1, 2, 3].map((i) => Math.floor((i * (layers - 1)) / 3)))) {
      for (const [part, norm] of NORM_BEFORE) {
        const matrix = this.#places.get(`blk.${layer}.${part}.weight`);
        const gains = this.#places.get(`blk.${layer}.${norm}.weight`);
        if (matrix?.tensor.type !== 'I2_S' || gains === undefined) continue;
        const bytes = (await this.#bytes(matrix)).subarray(0, -32);
        const cols = matrix.tensor.shape.at(-1)!;
        if (gains.tensor.shape[0] === cols) evidence.push({ bytes, cols, gains: await this.#floats(gains) });
      }
    }
    return guessOrder(evidence) ?? 'x86';
  }

  /** Floats as they are; what is quantized as f16, which holds any such value as well as its scale did. */
  #presentFloats(place: Place, { name, part, kind }: TensorRole): void {
    const { tensor } = place;
    const type = this.#readable(place);
    const { shape } = tensor;
    if (kind === 'norm' && this.#architecture === 'gemma3') {
      // Hugging Face stores what is added to 1; the difference is exact for all that this sum did not round.
      this.#add({ name, dtype: 'f32', shape, bytes: shape.reduce((a, b) => a * b, 4) }, async () =>
        f32Bytes((await this.#floats(place)).map((value) => value - 1)),
      );
      return;
    }
    const count = shape.reduce((product, size) => product * size, 1);
    const order = () => this.#rowOrder(part, shape[0] ?? 0);
    if (type === 'F32' || type === 'F16' || type === 'BF16') {
      const dtype = type === 'F32' ? 'f32' : type === 'F16' ? 'f16' : 'bf16';
      this.#add({ name, dtype, shape, bytes: ggufBytes(type, shape) }, async () => {
        const bytes = await this.#bytes(place);
        const rows = order();
        return rows === undefined ? bytes : gatherRows(bytes, bytes.length / rows.length, rows);
      });
      return;
    }
    if (TAILED.has(type)) {
      throw new LutraError(
        'unsupported',
        `${this.#path}: tensor ${quote(tensor.name)} has the type ${type}`,
        {
          hint: 'Only matrices of layers can be ternary.',
        },
      );
    }
    this.#add({ name, dtype: 'f16', shape, bytes: count * 2 }, async () => {
      const values = await this.#floats(place);
      const rows = order();
      return halfBytes(rows === undefined ? values : gatherRows(values, values.length / rows.length, rows));
    });
  }

  /** Codes a byte each, [rows, cols]; scales, f16 where they are, [rows, groups], or those of `BlockFactors`. */
  #presentCodes(place: Place, { name, part }: TensorRole): void {
    const [rows = 0, cols = 0] = place.tensor.shape;
    const { group, zero, block } = GROUPED[this.#readable(place) as GroupedType];
    const groups = cols / group;
    const order = () => this.#rowOrder(part, rows);
    const decode = () => this.#decode(place);
    const ordered = <T extends Uint8Array | Uint16Array | Float32Array>(values: T, width: number): T => {
      const wanted = order();
      return wanted === undefined ? values : gatherRows(values, width, wanted);
    };
    this.#add({ name, dtype: 'u8', shape: [rows, cols], bytes: rows * cols }, async () =>
      ordered((await decode()).codes, cols),
    );
    if (block !== undefined) {
      const ofGroups = { dtype: 'u8', shape: [rows, groups], bytes: rows * groups } as const;
      const ofBlocks = {
        dtype: 'f16',
        shape: [rows, cols / block],
        bytes: (rows * cols * 2) / block,
      } as const;
      const parts: Readonly<Partial<Record<keyof BlockFactors, Omit<TensorInfo, 'name'>>>> = {
        scales: ofBlocks,
        scaleCodes: ofGroups,
        ...(zero === undefined ? { minima: ofBlocks, minimumCodes: ofGroups } : {}),
      };
      for (const part of Object.keys(parts) as (keyof BlockFactors)[]) {
        const info = parts[part]!;
        this.#add({ name: `${name}_${part}`, ...info }, async () => {
          const values = ordered((await decode()).blocks![part]!, info.shape[1]!);
          return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
        });
      }
      return;
    }
    const small = { dtype: 'f32', shape: [rows, groups], bytes: rows * groups * 4 } as const;
    // Twice the scale of one bit may have no f16.
    if (Number.isInteger(zero)) {
      const halves = { ...small, dtype: 'f16', bytes: rows * groups * 2 } as const;
      this.#add({ name: `${name}_scales`, ...halves }, async () =>
        halfBytes(ordered((await decode()).scales, groups)),
      );
      return;
    }
    this.#add({ name: `${name}_scales`, ...small }, async () =>
      f32Bytes(ordered((await decode()).scales, groups)),
    );
  }

  /** A matrix's parts are asked for one after the other: the last one decoded is kept. */
  #decode(place: Place): Promise<GroupedCodes> {
    if (this.#decoded?.place !== place) {
      const read = async () => decodeGroups(this.#readable(place) as GroupedType, await this.#bytes(place));
      this.#decoded = { place, codes: read() };
    }
    return this.#decoded.codes;
  }

  /**
   * For each row of Hugging Face the row of GGUF. llama.cpp rotates neighbors in the architecture llama, so
   * that its files have the halves of every head of q and k in turns.
   */
  #rowOrder(part: string, rows: number): Int32Array | undefined {
    if (this.#architecture !== 'llama' || (part !== 'attn_q' && part !== 'attn_k')) return undefined;
    const headDim = this.config.head_dim as number;
    const half = headDim / 2;
    return Int32Array.from({ length: rows }, (_, row) => {
      const within = row % headDim;
      return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
    });
  }
}

function gatherRows<T extends Int8Array | Uint8Array | Uint16Array | Float32Array>(
  values: T,
  cols: number,
  rows: Int32Array,
): T {
  const out = values.slice() as T;
  for (let i = 0; i < rows.length; i++)
    out.set(values.subarray(rows[i]! * cols, (rows[i]! + 1) * cols), i * cols);
  return out;
}
