import { add, float, max, mul } from '../loops/expr.ts';
import type { Expr } from '../loops/ir.ts';
import { fixedKernel } from './fixed.ts';
import { forElements, LANES, rowStart } from './lanes.ts';
import { gelu, silu } from './math.ts';

export type GateShape = { readonly k: number; readonly act: 'relu2' | 'silu' | 'gelu' };

/** act(gate) * up, of rows that hold gate and up side by side; relu2(x) = max(x, 0)^2. */
export const gatePacked = fixedKernel<GateShape>('gate.packed', (b, { k, act }) => {
  const gateUp = b.buffer('gateUp', 'f32', 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  const activate = (x: Expr) => {
    if (act === 'silu') return silu(b, x);
    if (act === 'gelu') return gelu(b, x);
    const positive = b.let('positive', max(float(0, LANES), x));
    return mul(positive, positive);
  };
  forElements(b, n, k, (row, column) => {
    const from = b.let('from', add(rowStart(b, row, 2 * k), column));
    const gate = b.let('gate', b.load(gateUp, from, LANES));
    const up = b.load(gateUp, add(from, k), LANES);
    b.store(out, add(rowStart(b, row, k), column), mul(activate(gate), up));
  });
});
