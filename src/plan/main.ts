import { LutraError } from '../common/errors.ts';
import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
import { add, compare, div, int, max, min, mul, sub } from '../loops/expr.ts';
import { type Expr, LINE, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS } from '../loops/ir.ts';
import { SEQUENCE_FIELDS } from '../loops/step.ts';
import type { Operand, Step, StepKernel } from './steps.ts';

/** Everything `main` needs to know about where things are. Offsets are in bytes, multiples of LINE. */
export interface Addresses {
  value(name: string): number;
  /** Bytes from one row of a value to the next. */
  rowBytes(name: string): number;
  weight(constant: string, region: number): number;
  /** From the start of a sequence's cache. */
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

/** Rows that calls cover: `skipped` rows of the block come before them. */
interface Rows {
  readonly n: Expr;
  readonly pos: Expr;
  /** Where their sequence's cache begins, in lines. */
  readonly cache: Expr;
  readonly skipped: Expr;
}

/**
 * Writes the forward step:
 *
 * ```
 * for t0 in 0, block, ... < n
 *   rows = min(block, n - t0)
 *   every step on rows tokens, a barrier after each;
 *     where a step is about sequences: on each sequence that has tokens in this block, one after the other
 *   if logits are wanted from this block: the steps on those rows
 * ```
 */
export function buildMain(steps: readonly Step[], block: number, addresses: Addresses): LoopFunction {
  const k = new FunctionBuilder('main');
  const buffers = new Map<string, BufferRef>();
  for (const { name, elem, access } of MAIN_BUFFERS) buffers.set(name, k.buffer(name, elem, access));
  const [n, count] = MAIN_SCALARS.map(({ name, kind }) => k.scalar(name, kind)) as [Expr, Expr];
  const table = (name: string, index: Expr) => k.load(buffers.get(name)!, index);

  k.for('t0', 0, n, block, (t0) => {
    const rows = k.let('rows', min(sub(n, t0), int(block)));
    const end = k.let('end', add(t0, rows));
    const firstOutput = k.let('firstOutput', table('outputs', t0));
    const outputs = k.let('outputCount', sub(table('outputs', end), firstOutput));
    const tokenLine = k.let('tokenLine', div(t0, LINE / 4));
    const logitsLine = k.let('logitsLine', mul(firstOutput, lines(addresses.logitsStride * 4)));

    const place = (operand: Operand, part: Rows): { buffer: BufferRef; offset: Expr } => {
      const at = (buffer: string, offset: Expr) => ({ buffer: buffers.get(buffer)!, offset });
      switch (operand.kind) {
        case 'tokens':
        case 'outputs':
          return at(operand.kind, tokenLine);
        case 'weight':
          return at('weights', int(lines(addresses.weight(operand.constant, operand.region))));
        case 'cache':
          return at('cache', add(part.cache, lines(addresses.cache(operand.layer, operand.part))));
        case 'value': {
          if (operand.name === addresses.logits) return at('logits', logitsLine);
          const first = int(lines(addresses.value(operand.name)));
          if (part.skipped.kind === 'const') return at('arena', first);
          return at('arena', add(mul(part.skipped, lines(addresses.rowBytes(operand.name))), first));
        }
      }
    };
    const call = (step: Step, part: Rows) => {
      const scalars = step.scalars.map((s) => ({ n: part.n, pos: part.pos, tokens: rows })[s]);
      const args = step.operands.map((operand) => place(operand, part));
      const write = (kernel: StepKernel) => k.call(addresses.kernelName(kernel), args, scalars);
      if (step.single === undefined) return write(step.kernel);
      k.if(
        compare('eq', part.n, int(1)),
        () => write(step.single!),
        () => write(step.kernel),
      );
    };
    const forSequences = (body: (part: Rows) => void) =>
      k.for('sequence', 0, count, 1, (sequence) => {
        const base = k.let('base', mul(sequence, SEQUENCE_FIELDS.length));
        const [first, last, position, cache] = SEQUENCE_FIELDS.map((name, i) =>
          k.let(name, table('sequences', add(base, i))),
        ) as [Expr, Expr, Expr, Expr];
        const from = k.let('from', max(first, t0));
        const own = k.let('own', sub(min(last, end), from));
        k.if(compare('lt', int(0), own), () => {
          const pos = k.let('pos', add(position, sub(from, first)));
          body({ n: own, pos, cache, skipped: k.let('skipped', sub(from, t0)) });
        });
      });
    const emit = (step: Step) => {
      const whole = { pos: int(0), cache: int(0), skipped: int(0) };
      if (step.rows === 'sequences') forSequences((part) => call(step, part));
      else call(step, { ...whole, n: step.rows === 'tokens' ? rows : outputs });
      k.barrier();
    };

    const firstStep = steps.findIndex((s) => s.rows === 'outputs');
    const split = firstStep < 0 ? steps.length : firstStep;
    if (steps.slice(split).some((s) => s.rows !== 'outputs')) {
      throw new LutraError('internal', 'plan: a step on all tokens follows the selection of outputs');
    }
    for (const step of steps.slice(0, split)) emit(step);
    k.if(compare('lt', int(0), outputs), () => {
      for (const step of steps.slice(split)) emit(step);
    });
  });
  return k.build();
}
