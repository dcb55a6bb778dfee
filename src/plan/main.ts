import { LutraError } from '../common/errors.ts';
import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
import { add, compare, div, int, min, mul, select, sub } from '../loops/expr.ts';
import { type Expr, LINE, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS } from '../loops/ir.ts';
import type { Operand, Step, StepKernel } from './steps.ts';

/** Everything `main` needs to know about where things are. Offsets are in bytes, multiples of LINE. */
export interface Addresses {
  value(name: string): number;
  weight(constant: string, region: number): number;
  cache(layer: number, part: 'keys' | 'values'): number;
  /** The value that goes straight to the caller's logits. */
  readonly logits: string;
  /** In floats. */
  readonly logitsStride: number;
  kernelName(kernel: StepKernel): string;
}

function lines(bytes: number): number {
  if (bytes % LINE !== 0) throw new LutraError('internal', `plan: byte offset ${bytes} is not aligned`);
  return bytes / LINE;
}

/**
 * Writes the forward step:
 *
 * ```
 * for t0 in 0, block, ... < n
 *   rows = min(block, n - t0)
 *   every step on rows tokens, a barrier after each
 *   if logits are wanted from this block: the steps on those rows
 * ```
 */
export function buildMain(steps: readonly Step[], block: number, addresses: Addresses): LoopFunction {
  const k = new FunctionBuilder('main');
  const buffers = new Map<string, BufferRef>();
  for (const { name, elem, access } of MAIN_BUFFERS) buffers.set(name, k.buffer(name, elem, access));
  const [n, pos, all] = MAIN_SCALARS.map(({ name, kind }) => k.scalar(name, kind)) as [Expr, Expr, Expr];

  k.for('t0', 0, n, block, (t0) => {
    const rows = k.let('rows', min(sub(n, t0), int(block)));
    const start = k.let('start', add(pos, t0));
    const wantsAll = (x: Expr, y: Expr) => select('ne', all, int(0), x, y);
    // Without `all`, only the last token of the last block has logits.
    const isLast = compare('eq', add(t0, rows), n);
    const outputs = k.let('outputs', wantsAll(rows, isLast));
    const first = k.let('first', wantsAll(int(0), sub(rows, 1)));
    const tokenLine = k.let('tokenLine', div(t0, LINE / 4));
    const logitsLine = k.let('logitsLine', wantsAll(mul(t0, lines(addresses.logitsStride * 4)), int(0)));

    const place = (operand: Operand): { buffer: BufferRef; offset: Expr } => {
      const at = (buffer: string, offset: Expr) => ({ buffer: buffers.get(buffer)!, offset });
      switch (operand.kind) {
        case 'tokens':
          return at('tokens', tokenLine);
        case 'weight':
          return at('weights', int(lines(addresses.weight(operand.constant, operand.region))));
        case 'cache':
          return at('cache', int(lines(addresses.cache(operand.layer, operand.part))));
        case 'value':
          if (operand.name === addresses.logits) return at('logits', logitsLine);
          return at('arena', int(lines(addresses.value(operand.name))));
      }
    };
    const emit = (step: Step) => {
      const count = step.rows === 'tokens' ? rows : outputs;
      const scalars = step.scalars.map((s) => ({ n: count, pos: start, first })[s]);
      const args = step.operands.map(place);
      const call = (kernel: StepKernel) => k.call(addresses.kernelName(kernel), args, scalars);
      if (step.single === undefined) {
        call(step.kernel);
      } else {
        k.if(
          compare('eq', count, int(1)),
          () => call(step.single!),
          () => call(step.kernel),
        );
      }
      k.barrier();
    };

    const firstOutput = steps.findIndex((s) => s.rows === 'outputs');
    const split = firstOutput < 0 ? steps.length : firstOutput;
    if (steps.slice(split).some((s) => s.rows === 'tokens')) {
      throw new LutraError('internal', 'plan: a step on all tokens follows the selection of outputs');
    }
    for (const step of steps.slice(0, split)) emit(step);
    k.if(compare('lt', int(0), outputs), () => {
      for (const step of steps.slice(split)) emit(step);
    });
  });
  return k.build();
}
