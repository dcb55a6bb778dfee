import { defineOperator } from '../registry.ts';
import { input } from '../schema.ts';
import { FLOATS, tensor } from '../types.ts';
import { rejectStep } from './reject-step.ts';

export const embedding = defineOperator({
  name: 'embedding',
  doc: 'The row of the table that each token names.',
  inputs: [input('tokens', 'i32', 'tokens'), input('table', FLOATS, 'vocab', 'h')],
  attrs: {},
  outputs: ['out'],
  infer: ({ size }) => [tensor('f32', 'tokens', size('h'))],
  reference({ inputs: [tokens, table] }) {
    const [vocab = 0, h = 0] = table!.shape;
    const out = new Float64Array(tokens!.data.length * h);
    for (const [i, token] of tokens!.data.entries()) {
      if (token < 0 || token >= vocab) rejectStep('embedding', `token ${token} is not in 0..${vocab - 1}`);
      out.set(table!.data.subarray(token * h, (token + 1) * h), i * h);
    }
    return [out];
  },
});
