import type {
  Attrs,
  AttrValue,
  CodeBits,
  Constant,
  Dim,
  DType,
  Graph,
  GroupPart,
  GroupSource,
  Node,
  RopeScaling,
  TensorType,
  Value,
  WeightSource,
} from './ir.ts';
import { failAt, lex, type Token } from './lex.ts';
import { RESERVED } from './print.ts';
import { DTYPES } from './types.ts';

/** Sources hold sources (`concat`); hostile text must not exhaust the call stack. */
const MAX_DEPTH = 32;

/** Walks over the words of a text. */
class Reader {
  readonly #tokens: readonly Token[];
  #next = 0;

  constructor(text: string) {
    this.#tokens = lex(text);
  }

  get token(): Token {
    return this.#tokens[this.#next]!;
  }

  fail(expected: string): never {
    const { kind, text } = this.token;
    const found =
      kind === 'end' ? 'the text ends' : `found ${kind === 'string' ? JSON.stringify(text) : text}`;
    return failAt(this.token, `expected ${expected}, but ${found}`);
  }

  advance(): Token {
    const token = this.token;
    if (token.kind !== 'end') this.#next++;
    return token;
  }

  /** Whether the next word is this mark or bare name; if so it is taken. */
  skip(text: string): boolean {
    const { kind } = this.token;
    const found = (kind === 'mark' || kind === 'name') && this.token.text === text;
    if (found) this.advance();
    return found;
  }

  expect(mark: string): void {
    if (!this.skip(mark)) this.fail(mark);
  }

  /** A bare name that is not reserved, or a quoted one. */
  name(what: string): string {
    const { kind, text } = this.token;
    if (kind !== 'string' && (kind !== 'name' || RESERVED.has(text))) this.fail(what);
    return this.advance().text;
  }

  string(what: string): string {
    if (this.token.kind !== 'string') this.fail(what);
    return this.advance().text;
  }

  number(what: string): number {
    if (this.token.kind !== 'number') this.fail(what);
    return Number(this.advance().text);
  }

  /** Zero or more items, with commas between them, up to the closing mark. */
  list<T>(close: string, item: () => T): T[] {
    const items: T[] = [];
    if (this.skip(close)) return items;
    do items.push(item());
    while (this.skip(','));
    this.expect(close);
    return items;
  }
}

function parseDim(reader: Reader): Dim {
  if (reader.skip('tokens')) return 'tokens';
  if (reader.skip('outputs')) return 'outputs';
  const { token } = reader;
  const size = reader.number('a size, tokens or outputs');
  return Number.isSafeInteger(size) && size >= 0 ? size : failAt(token, `${token.text} is no size`);
}

function parseType(reader: Reader): TensorType {
  const dtype = DTYPES.find((candidate: DType) => reader.skip(candidate));
  if (dtype === undefined) reader.fail(`a type (${DTYPES.join(', ')})`);
  reader.expect('[');
  return { dtype, shape: reader.list(']', () => parseDim(reader)) };
}

function parseValue(reader: Reader): Value {
  const name = reader.name('the name of a value');
  reader.expect(':');
  return { name, type: parseType(reader) };
}

/** `name = number`, in this order, for each of the names. */
function parseFields<const K extends string>(reader: Reader, names: readonly K[]): Record<K, number> {
  const fields: Partial<Record<K, number>> = {};
  for (const [i, name] of names.entries()) {
    if (i > 0) reader.expect(',');
    reader.expect(name);
    reader.expect('=');
    fields[name] = reader.number(`the number ${name}`);
  }
  return fields as Record<K, number>;
}

function parseRopeTable(reader: Reader): WeightSource {
  let table: Extract<WeightSource, { readonly kind: 'rope-table' }> = {
    kind: 'rope-table',
    ...parseFields(reader, ['theta', 'headDim', 'positions']),
  };
  while (reader.skip(',')) {
    if (reader.skip('divisors')) {
      reader.expect('=');
      reader.expect('[');
      table = { ...table, divisors: reader.list(']', () => reader.number('a divisor')) };
    } else if (reader.skip('magnitude')) {
      reader.expect('=');
      table = { ...table, magnitude: reader.number('the number magnitude') };
    } else {
      const names = ['factor', 'lowFactor', 'highFactor', 'originalContext'] as const;
      const scaling: RopeScaling = parseFields(reader, names);
      table = { ...table, scaling };
    }
  }
  return table;
}

const GROUP_PARTS: readonly GroupPart[] = ['codes', 'scales', 'zeros', 'scaleCodes', 'zeroCodes', 'order'];

/** `bits = ..., group = ...` of codes of some of the bits there are. */
function parseCodes<const B extends CodeBits>(reader: Reader, allowed: readonly B[]) {
  const { token } = reader;
  const { bits: found, group } = parseFields(reader, ['bits', 'group']);
  const bits = allowed.find((candidate) => candidate === found);
  return { bits: bits ?? failAt(token, `codes have ${allowed.join(', ')} bits, not ${found}`), group };
}

const GPTQ_ZEROS = ['v1', 'v2', 'none'] as const;

function parseGptq(reader: Reader, tensor: string): GroupSource {
  reader.expect('zeros');
  reader.expect('=');
  const { token } = reader;
  const stored = reader.string(`${GPTQ_ZEROS.join(' or ')}, in quotes`);
  const zeros = GPTQ_ZEROS.find((candidate) => candidate === stored);
  if (zeros === undefined) failAt(token, `zeros are ${GPTQ_ZEROS.join(' or ')}, not ${stored}`);
  reader.expect(',');
  const source = { format: 'gptq', tensor, ...parseCodes(reader, [2, 3, 4, 8]), zeros } as const;
  if (!reader.skip(',')) return source;
  reader.expect('order');
  reader.expect('=');
  return { ...source, order: reader.string('the name of a matrix, in quotes') };
}

function parseAbsMean(reader: Reader, tensor: string): GroupSource {
  reader.expect('per');
  reader.expect('=');
  const { token } = reader;
  const found = reader.string('tensor or group, in quotes');
  const per = (['tensor', 'group'] as const).find((candidate) => candidate === found);
  if (per === undefined) failAt(token, `means are per tensor or group, not ${found}`);
  reader.expect(',');
  return { format: 'absmean', tensor, per, ...parseCodes(reader, [2]) };
}

function parseGroup(reader: Reader): GroupSource {
  const format = (['round', 'absmean', 'gptq', 'awq', 'parts'] as const).find((word) => reader.skip(word));
  if (format === undefined) reader.fail('a quantized matrix (round, absmean, gptq, awq or parts)');
  reader.expect('(');
  const tensor = reader.string('the name of a tensor, in quotes');
  reader.expect(',');
  let source: GroupSource;
  if (format === 'gptq') source = parseGptq(reader, tensor);
  else if (format === 'absmean') source = parseAbsMean(reader, tensor);
  else if (format === 'awq') source = { format, tensor, ...parseCodes(reader, [4]) };
  else if (format === 'parts') {
    const minima = reader.skip('minima');
    if (minima) reader.expect(',');
    source = { format, tensor, ...parseCodes(reader, [1, 2, 3, 4, 6, 8]), minima };
    if (reader.skip(',')) {
      reader.expect('block');
      reader.expect('=');
      source = { ...source, block: reader.number('columns of a block') };
    }
  } else {
    const symmetric = reader.skip('symmetric');
    if (!symmetric && !reader.skip('asymmetric')) reader.fail('symmetric or asymmetric');
    reader.expect(',');
    source = { format, tensor, ...parseCodes(reader, [1, 2, 3, 4, 8]), symmetric };
  }
  reader.expect(')');
  return source;
}

const TENSOR_KINDS = ['tensor', 'packed-ternary', 'absmean-ternary'] as const;

function parseSource(reader: Reader, depth: number): WeightSource {
  if (depth > MAX_DEPTH) failAt(reader.token, `sources are nested more than ${MAX_DEPTH} deep`);
  const { token } = reader;
  const kind = reader.name('a source');
  reader.expect('(');
  if (kind === 'concat') return { kind, parts: reader.list(')', () => parseSource(reader, depth + 1)) };
  if (kind === 'data') return { kind, values: reader.list(')', () => reader.number('a number')) };
  const source = parseFixedSource(reader, kind, token);
  reader.expect(')');
  return source;
}

function parseFixedSource(reader: Reader, kind: string, token: Token): WeightSource {
  if (kind === 'rope-table') return parseRopeTable(reader);
  const part = GROUP_PARTS.find((candidate) => candidate === kind);
  if (part !== undefined) return { kind: part, of: parseGroup(reader) };
  const plain = TENSOR_KINDS.find((candidate) => candidate === kind);
  if (plain === undefined && kind !== 'scale' && kind !== 'absmean-scale' && kind !== 'adjusted') {
    failAt(token, `${JSON.stringify(kind)} is no kind of source`);
  }
  const tensor = reader.string('the name of a tensor, in quotes');
  if (plain !== undefined) return { kind: plain, tensor };
  reader.expect(',');
  if (kind === 'absmean-scale') return { kind, tensor, ...parseFields(reader, ['rows']) };
  if (kind === 'adjusted') return { kind, tensor, ...parseFields(reader, ['plus', 'factor', 'times']) };
  const direction = (['multiply', 'divide'] as const).find((word) => reader.skip(word));
  if (direction === undefined) reader.fail('multiply or divide');
  reader.expect(',');
  return { kind: 'scale', tensor, direction, ...parseFields(reader, ['rows']) };
}

function parseConstant(reader: Reader): Constant {
  const value = parseValue(reader);
  const encoding = reader.skip('@') ? { encoding: reader.name('the name of an encoding') } : {};
  reader.expect('=');
  return { ...value, source: parseSource(reader, 0), ...encoding };
}

function parseAttrValue(reader: Reader): AttrValue {
  if (reader.skip('true')) return true;
  if (reader.skip('false')) return false;
  if (reader.skip('[')) return reader.list(']', () => reader.number('a number'));
  return reader.token.kind === 'string' ? reader.advance().text : reader.number('the value of an attribute');
}

function parseAttrs(reader: Reader): Attrs {
  const attrs = new Map<string, AttrValue>();
  if (!reader.skip('{')) return {};
  reader.list('}', () => {
    const { token } = reader;
    const name = reader.name('the name of an attribute');
    if (attrs.has(name)) failAt(token, `the attribute ${name} is given twice`);
    reader.expect('=');
    attrs.set(name, parseAttrValue(reader));
  });
  return Object.fromEntries(attrs);
}

function parseNode(reader: Reader): Node {
  const outputs: Value[] = [];
  do outputs.push(parseValue(reader));
  while (reader.skip(','));
  reader.expect('=');
  const op = reader.name('the name of an operator');
  reader.expect('(');
  const inputs = reader.list(')', () => reader.name('the name of a value'));
  return { op, inputs, outputs, attrs: parseAttrs(reader) };
}

/**
 * Reads the text that `printGraph` writes. Only the syntax is checked: `verifyGraph` says whether the graph
 * means anything. Throws `invalid` with line and column.
 */
export function parseGraph(text: string): Graph {
  const reader = new Reader(text);
  reader.expect('graph');
  const name = reader.name('the name of the graph');
  reader.expect('{');
  const inputs: Value[] = [];
  const constants: Constant[] = [];
  const nodes: Node[] = [];
  while (!reader.skip('return')) {
    if (reader.skip('input')) inputs.push(parseValue(reader));
    else if (reader.skip('const')) constants.push(parseConstant(reader));
    else nodes.push(parseNode(reader));
  }
  const outputs = reader.list('}', () => reader.name('the name of an output'));
  if (reader.token.kind !== 'end') reader.fail('nothing more');
  return { name, inputs, constants, nodes, outputs };
}
