import { LutraError } from '../common/errors.ts';
import { evaluateGraph, type Observer, shaped } from './evaluate.ts';
import type { Constant, Graph } from './ir.ts';
import { coreOperators } from './operators/core.ts';
import type { Registry } from './registry.ts';
import { type Numbers, ReferenceCache, type Step, type Tensor } from './step.ts';
import { elementCount } from './types.ts';
import { verifyGraph } from './verify.ts';

/** A constant's values, row-major: floats, Int8Array for `ternary` and `i8`, Uint8Array for codes. */
export type ResolveConstant = (constant: Constant) => Promise<Numbers>;

export interface ReferenceForward {
  /** Absolute position of the first token. */
  readonly position: number;
  /** Logits of the last token only, or of all. */
  readonly logits: 'last' | 'all';
  /** The sequence's state; a step adds its tokens to it. */
  readonly cache: ReferenceCache;
  readonly observe?: Observer;
}

/**
 * Runs a model in plain float64: the oracle that compiled code is compared with. Holds all constants in
 * memory, so it is for small models.
 *
 * ```ts
 * const model = await ReferenceExecutor.create(graph, resolve);
 * const cache = new ReferenceCache();
 * const logits = model.forward(tokens, { position: 0, logits: 'last', cache });
 * ```
 */
export class ReferenceExecutor {
  readonly #graph: Graph;
  readonly #registry: Registry;
  readonly #constants: ReadonlyMap<string, Tensor>;

  private constructor(graph: Graph, registry: Registry, constants: ReadonlyMap<string, Tensor>) {
    this.#graph = graph;
    this.#registry = registry;
    this.#constants = constants;
  }

  /** Verifies the graph, which has one input `i32[tokens]`, and resolves its constants one by one. */
  static async create(
    graph: Graph,
    resolve: ResolveConstant,
    registry: Registry = coreOperators,
  ): Promise<ReferenceExecutor> {
    verifyGraph(graph, registry);
    const [input, ...others] = graph.inputs;
    if (input === undefined || others.length > 0 || input.type.dtype !== 'i32') {
      throw new LutraError('invalid', `graph ${graph.name}: a model has one input, tokens i32[tokens]`);
    }
    const constants = new Map<string, Tensor>();
    const none: Step = { tokens: 0, outputs: 0, position: 0, cache: new ReferenceCache() };
    for (const constant of graph.constants) {
      const data = await resolve(constant);
      constants.set(constant.name, shaped(`constant ${constant.name}`, constant.type, data, none));
    }
    return new ReferenceExecutor(graph, registry, constants);
  }

  /** The graph's first output: logits [vocab] of the last token, or [tokens, vocab]. */
  forward(tokens: Int32Array, { position, logits, cache, observe }: ReferenceForward): Float64Array {
    if (tokens.length === 0) throw new LutraError('usage', 'a forward step needs at least one token');
    const outputs = logits === 'all' ? tokens.length : 1;
    const step: Step = { tokens: tokens.length, outputs, position, cache };
    const input = this.#graph.inputs[0]!;
    const values = new Map(this.#constants);
    values.set(input.name, shaped(input.name, input.type, tokens, step));
    const [result] = evaluateGraph(this.#graph, this.#registry, values, step, observe);
    return Float64Array.from(result!.data);
  }
}

/** Constants whose source is `data` in place, as typed arrays; throws `unsupported` for any other source. */
export async function resolveData(constant: Constant): Promise<Numbers> {
  const { source, type } = constant;
  if (source.kind !== 'data' || elementCount(type) !== source.values.length) {
    throw new LutraError('unsupported', `constant ${constant.name}: its values are not given in place`);
  }
  switch (type.dtype) {
    case 'ternary':
    case 'i8':
      return Int8Array.from(source.values);
    case 'i16':
      return Int16Array.from(source.values);
    case 'i32':
      return Int32Array.from(source.values);
    case 'u1':
    case 'u2':
    case 'u3':
    case 'u4':
    case 'u8':
      return Uint8Array.from(source.values);
    default:
      return Float64Array.from(source.values);
  }
}
