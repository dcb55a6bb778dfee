import { LutraError } from '../common/errors.ts';
import type { Constant, DType, Graph, TensorType, WeightSource } from './ir.ts';
import { coreOperators } from './operators/core.ts';
import { inferTypes, nodeText, type Registry } from './registry.ts';
import { codeBits, elementCount, FLOATS, isSize, sameType, typeText } from './types.ts';

function reject(where: string, what: string): never {
  throw new LutraError('invalid', `${where}: ${what}`);
}

/** `reject` for a constant; `part` is the source in question, which for a concat is inside another. */
function rejectSource(constant: Constant, part: WeightSource, what: string): never {
  reject(
    `constant ${constant.name}`,
    `a source of kind ${part.kind} ${what}, but the constant is ${typeText(constant.type)}`,
  );
}

/** Rows along the first axis that a source has by itself; undefined when only the checkpoint knows. */
function rowsOf(source: WeightSource, type: TensorType): number | undefined {
  switch (source.kind) {
    case 'scale':
    case 'absmean-scale':
      return source.rows;
    case 'rope-table':
      return source.positions;
    case 'data':
      return source.values.length / (elementCount({ ...type, shape: type.shape.slice(1) }) ?? 1);
    case 'concat': {
      let rows = 0;
      for (const part of source.parts) {
        const count = rowsOf(part, type);
        if (count === undefined) return undefined;
        rows += count;
      }
      return rows;
    }
    default:
      return undefined;
  }
}

/** Smallest and largest value of the dtypes that hold integers. */
const DATA_RANGES: Readonly<Partial<Record<DType, readonly [number, number]>>> = {
  ternary: [-1, 1],
  i8: [-128, 127],
  i16: [-(2 ** 15), 2 ** 15 - 1],
  i32: [-(2 ** 31), 2 ** 31 - 1],
  u1: [0, 1],
  u2: [0, 3],
  u3: [0, 7],
  u4: [0, 15],
  u8: [0, 255],
};

function checkSource(constant: Constant, source: WeightSource): void {
  const { dtype, shape } = constant.type;
  const fail = (what: string) => rejectSource(constant, source, what);
  switch (source.kind) {
    case 'tensor':
      if (!FLOATS.includes(dtype)) fail('gives floats');
      return;
    case 'packed-ternary':
    case 'absmean-ternary':
      if (dtype !== 'ternary' || shape.length !== 2) fail('gives ternary[rows, columns]');
      return;
    case 'scale':
    case 'absmean-scale':
      if (dtype !== 'f32' || shape.length !== 1) fail('gives f32[rows]');
      if (!isSize(source.rows)) fail(`has ${source.rows} rows`);
      return;
    case 'adjusted':
      if (dtype !== 'f32' || shape.length !== 1) fail('gives f32[length]');
      if (!isSize(source.times) || source.times < 1) fail(`comes ${source.times} times`);
      return;
    case 'codes':
      if (codeBits(dtype) !== source.of.bits || shape.length !== 2) {
        fail(`gives u${source.of.bits}[rows, columns]`);
      }
      if (!isSize(source.of.group)) fail(`has groups of ${source.of.group} columns`);
      return;
    case 'scales':
      if ((dtype !== 'f16' && dtype !== 'f32') || shape.length !== 2) fail('gives f16 or f32[rows, groups]');
      return;
    case 'zeros':
      if ((dtype !== 'u8' && dtype !== 'f16' && dtype !== 'f32') || shape.length !== 2) {
        fail('gives u8, f16 or f32[rows, groups]');
      }
      return;
    case 'scaleCodes':
    case 'zeroCodes':
      if ((dtype !== 'u4' && dtype !== 'u8' && dtype !== 'i8') || shape.length !== 2) {
        fail('gives u4, u8 or i8[rows, groups]');
      }
      return;
    case 'order':
      if (dtype !== 'i32' || shape.length !== 1) fail('gives i32[columns]');
      return;
    case 'rope-table':
      if (dtype !== 'f32' || shape.length !== 2 || shape[1] !== source.headDim || source.headDim % 2 !== 0) {
        fail(`gives f32[positions, headDim] with an even headDim, here ${source.headDim}`);
      }
      if (source.divisors !== undefined && ![1, source.headDim / 2].includes(source.divisors.length)) {
        fail(`has ${source.divisors.length} divisors for ${source.headDim / 2} frequencies`);
      }
      return;
    case 'data': {
      const range = DATA_RANGES[dtype];
      if (range === undefined) return;
      const [smallest, largest] = range;
      const bad = source.values.find((v) => !Number.isInteger(v) || v < smallest || v > largest);
      if (bad !== undefined) fail(`holds the value ${bad}`);
      return;
    }
    case 'concat':
      if (source.parts.length === 0) fail('has no parts');
      for (const part of source.parts) checkSource(constant, part);
  }
}

function checkConstant(constant: Constant): void {
  const { shape } = constant.type;
  const where = `constant ${constant.name}`;
  if (shape.length === 0 || !shape.every(isSize)) {
    reject(where, `needs sizes known at compile time, not ${typeText(constant.type)}`);
  }
  checkSource(constant, constant.source);
  const rows = rowsOf(constant.source, constant.type);
  if (rows !== undefined && rows !== shape[0]) {
    rejectSource(constant, constant.source, `gives ${rows} rows`);
  }
}

/**
 * Checks that a graph means something: every value defined once and before its use, every node's types
 * those that its operator infers, constants' sources fit for their types as far as that can be known without
 * the checkpoint, outputs there. Throws `invalid` (or `unsupported` for an unknown operator) naming the value.
 */
export function verifyGraph(graph: Graph, registry: Registry = coreOperators): void {
  const types = new Map<string, TensorType>();
  const define = (where: string, name: string, type: TensorType) => {
    if (name === '') reject(where, 'a value has an empty name');
    if (types.has(name)) reject(where, `${name} is already defined`);
    const symbolic = type.shape.some((dim) => dim !== 'tokens' && dim !== 'outputs' && !isSize(dim));
    if (symbolic) reject(where, `${name} has a size that is no positive integer: ${typeText(type)}`);
    types.set(name, type);
  };
  for (const input of graph.inputs) define(`input ${input.name}`, input.name, input.type);
  for (const constant of graph.constants) {
    checkConstant(constant);
    define(`constant ${constant.name}`, constant.name, constant.type);
  }
  for (const node of graph.nodes) {
    const where = nodeText(node);
    const inputs = node.inputs.map((name) => {
      const type = types.get(name);
      if (type !== undefined) return type;
      const later = graph.nodes.some((other) => other.outputs.some((value) => value.name === name));
      return reject(
        where,
        later ? `reads ${name} before it is computed` : `reads ${name}, which nothing defines`,
      );
    });
    const inferred = inferTypes(registry, node.op, inputs, node.attrs, where);
    if (node.outputs.length !== inferred.length) {
      reject(where, `has ${node.outputs.length} outputs, but the operator ${inferred.length}`);
    }
    for (const [i, value] of node.outputs.entries()) {
      if (!sameType(value.type, inferred[i]!)) {
        reject(
          where,
          `${value.name} is ${typeText(value.type)}, but the operator gives ${typeText(inferred[i]!)}`,
        );
      }
      define(where, value.name, value.type);
    }
  }
  if (graph.outputs.length === 0) reject(`graph ${graph.name}`, 'has no outputs');
  for (const output of graph.outputs) {
    if (!types.has(output)) reject(`graph ${graph.name}`, `the output ${output} is not defined`);
  }
}
