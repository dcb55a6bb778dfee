/**
 * What an operator accepts: the dtypes and shapes of its inputs and the ranges of its attributes, as data,
 * so that checking, error messages and documentation come from one place.
 */
import { nearest } from '../common/nearest.ts';
import type { Attrs, AttrValue, Dim, DType, TensorType } from './ir.ts';
import { FLOATS, isSize, typeText } from './types.ts';

/**
 * A dimension: a number is exactly that; `tokens` and `outputs` are those; `t` is either of the two, the
 * same in the whole call; any other name is a size known at compile time, the same wherever it recurs.
 */
export type DimSchema = number | string;

export interface InputSchema {
  readonly name: string;
  readonly dtypes: readonly DType[];
  readonly shape: readonly DimSchema[];
  /** May be left out; only after all inputs that may not. */
  readonly optional?: true;
}

export function input(name: string, dtypes: DType | readonly DType[], ...shape: DimSchema[]): InputSchema {
  return { name, dtypes: typeof dtypes === 'string' ? [dtypes] : dtypes, shape };
}

export function optional(schema: InputSchema): InputSchema {
  return { ...schema, optional: true };
}

/** An attribute of type T: `expected` says in words what `accepts` accepts. */
export interface AttrSchema<T extends AttrValue = AttrValue> {
  readonly expected: string;
  accepts(value: AttrValue): value is T;
  /** What the attribute is where it is left out; without it, it must not be. */
  readonly fallback?: T;
}

export function integerAttr(min: number): AttrSchema<number> {
  return {
    expected: `an integer of at least ${min}`,
    accepts: (value): value is number => Number.isSafeInteger(value) && (value as number) >= min,
  };
}

export function positiveAttr(): AttrSchema<number> {
  return {
    expected: 'a finite number above 0',
    accepts: (value): value is number => Number.isFinite(value) && (value as number) > 0,
  };
}

export function booleanAttr(): AttrSchema<boolean> {
  return { expected: 'true or false', accepts: (value): value is boolean => typeof value === 'boolean' };
}

export function choiceAttr<const T extends string>(...choices: readonly T[]): AttrSchema<T> {
  return {
    expected: choices.map((choice) => `'${choice}'`).join(' or '),
    accepts: (value): value is T => choices.some((choice) => choice === value),
  };
}

/** An attribute that may be left out, and then is `fallback`. */
export function defaultAttr<T extends AttrValue>(schema: AttrSchema<T>, fallback: T): AttrSchema<T> {
  return { ...schema, fallback };
}

export type AttrSchemas<A extends Attrs> = { readonly [K in keyof A]: AttrSchema<A[K]> };

/** The attributes of a node with those filled in that it leaves out. */
export function fillAttrs(attrs: Attrs, schemas: AttrSchemas<Attrs>): Attrs {
  const missing = Object.entries(schemas).filter(
    ([name, { fallback }]) => fallback !== undefined && attrs[name] === undefined,
  );
  if (missing.length === 0) return attrs;
  return { ...attrs, ...Object.fromEntries(missing.map(([name, { fallback }]) => [name, fallback!])) };
}

/** Checks attributes against their schemas: none missing that has no default, none unknown. */
export function checkAttrs(attrs: Attrs, schemas: AttrSchemas<Attrs>, reject: (what: string) => never): void {
  for (const name of Object.keys(attrs)) {
    if (Object.hasOwn(schemas, name)) continue;
    const known = nearest(name, Object.keys(schemas));
    reject(`has no attribute ${name}${known === undefined ? '' : `; did you mean ${known}?`}`);
  }
  for (const [name, schema] of Object.entries(schemas)) {
    const value = attrs[name];
    if (value === undefined && schema.fallback !== undefined) continue;
    if (value === undefined) reject(`needs the attribute ${name}, ${schema.expected}`);
    if (!schema.accepts(value)) reject(`${name} is ${JSON.stringify(value)}, but must be ${schema.expected}`);
  }
}

function inputText(schema: InputSchema): string {
  const dtype = schema.dtypes === FLOATS ? 'float' : schema.dtypes.join('|');
  return `${schema.name} ${dtype}[${schema.shape.join(', ')}]${schema.optional === true ? '?' : ''}`;
}

/** `rmsNorm(x f32[t, k], weight f32[k]) {eps}` */
export function signatureText(
  name: string,
  inputs: readonly InputSchema[],
  attrs: AttrSchemas<Attrs>,
): string {
  const names = Object.keys(attrs);
  return `${name}(${inputs.map(inputText).join(', ')})${names.length === 0 ? '' : ` {${names.join(', ')}}`}`;
}

/** The dimensions that the names of a schema stand for in one call. */
export type Bindings = ReadonlyMap<string, Dim>;

function fits(schema: DimSchema, dim: Dim, bound: Map<string, Dim>): boolean {
  if (typeof schema === 'number' || schema === 'tokens' || schema === 'outputs') return dim === schema;
  if (schema === 't' ? dim !== 'tokens' && dim !== 'outputs' : !isSize(dim)) return false;
  const known = bound.get(schema);
  if (known === undefined) bound.set(schema, dim);
  return known === undefined || known === dim;
}

/** Checks the inputs' types and solves for the names of dimensions. */
export function bindInputs(
  types: readonly TensorType[],
  schemas: readonly InputSchema[],
  reject: (what: string) => never,
): Bindings {
  const needed = schemas.filter((schema) => schema.optional !== true).length;
  if (types.length < needed || types.length > schemas.length) {
    const names = schemas.map((schema) => schema.name).join(', ');
    const count = needed === schemas.length ? needed : `${needed} to ${schemas.length}`;
    reject(`takes ${count} inputs (${names}), not ${types.length}`);
  }
  const bound = new Map<string, Dim>();
  for (const [i, type] of types.entries()) {
    const schema = schemas[i]!;
    if (!schema.dtypes.includes(type.dtype)) reject(`input ${inputText(schema)} cannot be ${typeText(type)}`);
    // What a name stood for before this input: the reason why it does not fit.
    const known = [...bound].filter(([name]) => schema.shape.includes(name));
    const ok =
      type.shape.length === schema.shape.length &&
      schema.shape.every((dim, axis) => fits(dim, type.shape[axis]!, bound));
    if (!ok) {
      const where = known.length === 0 ? '' : ` with ${known.map(([n, d]) => `${n} = ${d}`).join(', ')}`;
      reject(`input ${inputText(schema)} cannot be ${typeText(type)}${where}`);
    }
  }
  return bound;
}
