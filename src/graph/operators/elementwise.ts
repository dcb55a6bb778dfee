import { defineOperator } from '../registry.ts';
import { choiceAttr, input, positiveAttr } from '../schema.ts';
import type { Numbers } from '../step.ts';
import { tensor } from '../types.ts';

export const add = defineOperator({
  name: 'add',
  doc: 'a + b: the residual.',
  inputs: [input('a', 'f32', 't', 'k'), input('b', 'f32', 't', 'k')],
  attrs: {},
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('k'))],
  reference({ inputs: [a, b] }) {
    const out = Float64Array.from(a!.data);
    for (let i = 0; i < out.length; i++) out[i]! += b!.data[i]!;
    return [out];
  },
});

export const bias = defineOperator({
  name: 'bias',
  doc: 'x + bias, the same row for all rows.',
  inputs: [input('x', 'f32', 't', 'k'), input('bias', 'f32', 'k')],
  attrs: {},
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('k'))],
  reference({ inputs: [x, row] }) {
    const k = row!.data.length;
    return [Float64Array.from(x!.data, (value, i) => value + row!.data[i % k]!)];
  },
});

export const scale = defineOperator({
  name: 'scale',
  doc: 'x * factor.',
  inputs: [input('x', 'f32', 't', 'k')],
  attrs: { factor: positiveAttr() },
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('k'))],
  reference: ({ inputs: [x], attrs: { factor } }) => [Float64Array.from(x!.data, (value) => value * factor)],
});

type Activation = 'relu2' | 'silu' | 'gelu';

const act = choiceAttr('relu2', 'silu', 'gelu');

const ACTIVATIONS: Readonly<Record<Activation, (x: number) => number>> = {
  relu2: (x) => (x > 0 ? x * x : 0),
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** activation(gate) * up for rows of k, the next row `stride` further on. */
function gateRows(
  [gate, gateStart]: readonly [Numbers, number],
  [up, upStart]: readonly [Numbers, number],
  rows: number,
  k: number,
  stride: number,
  activation: (x: number) => number,
): Float64Array {
  const out = new Float64Array(rows * k);
  for (let t = 0; t < rows; t++) {
    for (let i = 0; i < k; i++) {
      out[t * k + i] = activation(gate[gateStart + t * stride + i]!) * up[upStart + t * stride + i]!;
    }
  }
  return out;
}

export const gate = defineOperator({
  name: 'gate',
  doc: 'act(gate) * up, with act relu2: max(x, 0)^2, silu: x / (1 + e^-x), or gelu: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).',
  inputs: [input('gate', 'f32', 't', 'k'), input('up', 'f32', 't', 'k')],
  attrs: { act },
  outputs: ['out'],
  infer: ({ rows, size }) => [tensor('f32', rows, size('k'))],
  reference({ inputs: [gate, up], attrs }) {
    const [rows = 0, k = 0] = gate!.shape;
    return [gateRows([gate!.data, 0], [up!.data, 0], rows, k, k, ACTIVATIONS[attrs.act])];
  },
});

export const gatePacked = defineOperator({
  name: 'gate.packed',
  doc: 'gate, of rows whose first half is the gate and whose second half is up.',
  inputs: [input('gateUp', 'f32', 't', 'width')],
  attrs: { act },
  outputs: ['out'],
  infer({ rows, size, reject }) {
    if (size('width') % 2 !== 0) reject(`gateUp has the odd width ${size('width')}: no two halves`);
    return [tensor('f32', rows, size('width') / 2)];
  },
  reference({ inputs: [gateUp], attrs }) {
    const { shape, data } = gateUp!;
    const [rows = 0, width = 0] = shape;
    const k = width / 2;
    return [gateRows([data, 0], [data, k], rows, k, width, ACTIVATIONS[attrs.act])];
  },
});
