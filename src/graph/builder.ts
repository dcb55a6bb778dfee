import { LutraError } from '../common/errors.ts';
import type { Attrs, Constant, Dim, DType, Graph, Node, TensorType, Value, WeightSource } from './ir.ts';
import { coreOperators } from './operators/core.ts';
import { inferTypes, operatorOf, type Registry } from './registry.ts';
import { tensor } from './types.ts';

/**
 * Writes a graph node by node, inferring every type on the way.
 *
 * ```ts
 * const g = new GraphBuilder('small');
 * const tokens = g.input('tokens', 'i32', ['tokens']);
 * const table = g.constant('embed', tensor('bf16', 1024, 256), { kind: 'tensor', tensor: 'embed.weight' });
 * const x = g.op('embedding', [tokens, table]);
 * const [q, scale, sum] = g.opAll('quantize', [x]);
 * const graph = g.build([g.op('matmul', [g.op('selectOutputs', [x]), table], {}, 'logits')]);
 * ```
 * Names are made unique by a suffix, so that layers may use the same ones.
 */
export class GraphBuilder {
  readonly #name: string;
  readonly #registry: Registry;
  readonly #inputs: Value[] = [];
  readonly #constants: Constant[] = [];
  readonly #nodes: Node[] = [];
  readonly #types = new Map<string, TensorType>();

  constructor(name: string, registry: Registry = coreOperators) {
    this.#name = name;
    this.#registry = registry;
  }

  #define(name: string, type: TensorType): Value {
    let unique = name;
    for (let i = 1; this.#types.has(unique); i++) unique = `${name}_${i}`;
    this.#types.set(unique, type);
    return { name: unique, type };
  }

  input(name: string, dtype: DType, shape: readonly Dim[]): string {
    const value = this.#define(name, tensor(dtype, ...shape));
    this.#inputs.push(value);
    return value.name;
  }

  constant(name: string, type: TensorType, source: WeightSource): string {
    const value = this.#define(name, type);
    this.#constants.push({ ...value, source });
    return value.name;
  }

  /** The type of a value defined so far; throws `internal` for a name that is not. */
  typeOf(name: string): TensorType {
    const type = this.#types.get(name);
    if (type === undefined) throw new LutraError('internal', `graph ${this.#name}: no value ${name} yet`);
    return type;
  }

  /**
   * Adds a node and returns the names of its outputs: `name` (the operator's when left out) for one output,
   * `name.q`, `name.scale`, ... for several. Throws as `inferTypes` does.
   */
  opAll(op: string, inputs: readonly string[], attrs: Attrs = {}, name: string = op): readonly string[] {
    const where = `node ${name} (${op})`;
    const def = operatorOf(this.#registry, op, where);
    const inputTypes = inputs.map((input) => this.typeOf(input));
    const types = inferTypes(this.#registry, op, inputTypes, attrs, where);
    const outputs = types.map((type, i) =>
      this.#define(types.length === 1 ? name : `${name}.${def.outputs[i]}`, type),
    );
    this.#nodes.push({ op, inputs, outputs, attrs });
    return outputs.map((output) => output.name);
  }

  /** Adds a node of an operator with one output and returns the output's name. */
  op(op: string, inputs: readonly string[], attrs: Attrs = {}, name: string = op): string {
    const outputs = this.opAll(op, inputs, attrs, name);
    if (outputs.length !== 1) {
      throw new LutraError('internal', `${op} has ${outputs.length} outputs: use opAll`);
    }
    return outputs[0]!;
  }

  build(outputs: readonly string[]): Graph {
    for (const output of outputs) this.typeOf(output);
    return {
      name: this.#name,
      inputs: [...this.#inputs],
      constants: [...this.#constants],
      nodes: [...this.#nodes],
      outputs,
    };
  }
}
