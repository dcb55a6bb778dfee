/**
 * The operator registry: everything lutra knows of an operator's meaning. A registry is an immutable value
 * that is passed around; `operators/core.ts` has the operators of language models, and a user adds more:
 *
 * ```ts
 * const registry = extendRegistry(coreOperators, [defineOperator({ name: 'my.scale', ... })]);
 * ```
 */
import { LutraError } from '../common/errors.ts';
import { nearest } from '../common/nearest.ts';
import type { Attrs, Node, TensorType } from './ir.ts';
import {
  type AttrSchemas,
  bindInputs,
  checkAttrs,
  fillAttrs,
  type InputSchema,
  signatureText,
} from './schema.ts';
import type { Numbers, Step, Tensor } from './step.ts';

/** A use of an operator whose inputs and attributes already fit the schema. */
export interface InferCall<A extends Attrs = Attrs> {
  readonly inputs: readonly TensorType[];
  readonly attrs: A;
  /** The row dimension `t` (or `tokens`) of the inputs. */
  readonly rows: 'tokens' | 'outputs';
  /** The size that a name of the schema stands for. */
  size(name: string): number;
  /** Fails with a message that starts with the node and the operator. */
  reject(what: string): never;
}

export interface ReferenceCall<A extends Attrs = Attrs> {
  /** In float64 or integers, sizes as in the inferred types. */
  readonly inputs: readonly Tensor[];
  readonly attrs: A;
  readonly step: Step;
}

export interface OperatorDef<A extends Attrs = Attrs> {
  /** Unique; a user's operators have a prefix of their own, as in `acme.scale`. */
  readonly name: string;
  /** What it computes, in a sentence or a formula. */
  readonly doc: string;
  readonly inputs: readonly InputSchema[];
  readonly attrs: AttrSchemas<A>;
  /** Names of the outputs, in order. */
  readonly outputs: readonly string[];
  /** The types of the outputs; rejects what the schema alone cannot exclude. */
  infer(call: InferCall<A>): readonly TensorType[];
  /** The meaning: computes the outputs in float64 and exact integers. Must not change its inputs. */
  reference(call: ReferenceCall<A>): readonly Numbers[];
}

/** Gives a definition the types of its own attributes, which `OperatorDef` alone forgets. */
export function defineOperator<const A extends Attrs>(def: OperatorDef<A>): OperatorDef {
  return def as unknown as OperatorDef;
}

export interface Registry {
  readonly operators: ReadonlyMap<string, OperatorDef>;
}

/** A registry that also has `defs`. Throws `usage` when a name is taken: operators are never redefined. */
export function extendRegistry(registry: Registry, defs: readonly OperatorDef[]): Registry {
  const operators = new Map(registry.operators);
  for (const def of defs) {
    if (operators.has(def.name)) {
      throw new LutraError('usage', `the operator ${def.name} is already registered`, {
        hint: 'Give your operator a name of its own, as in acme.scale.',
      });
    }
    operators.set(def.name, def);
  }
  return { operators };
}

export function createRegistry(defs: readonly OperatorDef[]): Registry {
  return extendRegistry({ operators: new Map() }, defs);
}

/** How messages name a node: by its operator and first output. */
export function nodeText(node: Pick<Node, 'op' | 'outputs'>): string {
  return `node ${node.outputs[0]?.name ?? 'without outputs'} (${node.op})`;
}

/** The definition of an operator; throws `unsupported`, naming `where` it is used and the nearest known name. */
export function operatorOf(registry: Registry, op: string, where: string): OperatorDef {
  const def = registry.operators.get(op);
  if (def !== undefined) return def;
  const known = nearest(op, registry.operators.keys());
  throw new LutraError('unsupported', `${where}: no operator is called ${op}`, {
    hint:
      known === undefined
        ? `Known operators: ${[...registry.operators.keys()].join(', ')}.`
        : `Did you mean ${known}?`,
  });
}

/**
 * The output types of an operator for these inputs, in order. Throws `unsupported` for an unknown operator
 * and `invalid` for inputs or attributes that do not fit; `where` starts the message.
 */
export function inferTypes(
  registry: Registry,
  op: string,
  inputs: readonly TensorType[],
  attrs: Attrs,
  where: string,
): readonly TensorType[] {
  const def = operatorOf(registry, op, where);
  const reject = (what: string): never => {
    throw new LutraError('invalid', `${where}: ${what}`, {
      hint: `The operator is ${signatureText(def.name, def.inputs, def.attrs)}.`,
    });
  };
  checkAttrs(attrs, def.attrs, reject);
  const dims = bindInputs(inputs, def.inputs, reject);
  const types = def.infer({
    inputs,
    attrs: fillAttrs(attrs, def.attrs),
    rows: dims.get('t') === 'outputs' ? 'outputs' : 'tokens',
    size(name) {
      const dim = dims.get(name);
      if (typeof dim !== 'number')
        throw new LutraError('internal', `${op}: ${name} is no size of the schema`);
      return dim;
    },
    reject,
  });
  if (types.length !== def.outputs.length) {
    throw new LutraError(
      'internal',
      `${op}: infers ${types.length} types for the outputs ${def.outputs.join(', ')}`,
    );
  }
  return types;
}
