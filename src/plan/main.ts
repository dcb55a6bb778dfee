import { LutraError } from '../common/errors.ts';
import { PART_TOKENS } from '../kernels/attention/parts.ts';
import { CHUNK } from '../kernels/attention/shape.ts';
import type { CachePart } from '../kernels/cache.ts';
import { type BufferRef, FunctionBuilder } from '../loops/builder.ts';
import { add, compare, div, int, max, min, mul, select, sub } from '../loops/expr.ts';
import { type Expr, LINE, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS } from '../loops/ir.ts';
import { SEQUENCE_FIELDS } from '../loops/step.ts';
import type { Operand, Step, StepKernel } from './steps/step.ts';
import { keptValues } from './steps.ts';

/** Everything `main` needs to know about where things are. Offsets are in bytes, multiples of LINE. */
export interface Addresses {
  value(name: string): number;
  /** Bytes from one row of a value to the next. */
  rowBytes(name: string): number;
  weight(constant: string, region: number): number;
  /** From the start of a sequence's cache. */
  cache(layer: number, part: CachePart): number;
  /** The value that goes straight to the caller's logits. */
  readonly logits: string;
  /** In floats. */
  readonly logitsStride: number;
  readonly scans: boolean;
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
  /** Number of their sequence. */
  readonly sequence: Expr;
}

/**
 * Writes the forward step:
 *
 * ```
 * for t0 in 0, block, ... < n
 *   rows = min(block, n - t0)
 *   every step on rows tokens, a barrier after each that is not left out;
 *     where a step is about sequences: on each sequence that has tokens in this block, one after the other
 *   if logits are wanted from this block: the steps on those rows
 * if n = 0: single logits of the step before, `count` pairs of an output and a row
 * ```
 *
 * Where a step scans, the rows that single logits are computed from stay in the arena for that, so that those of
 * all blocks have places of their own; and what goes to the logits is their lower bounds, and behind those of all outputs the upper ones.
 */
export function buildMain(steps: readonly Step[], block: number, addresses: Addresses): LoopFunction {
  const k = new FunctionBuilder('main');
  const buffers = new Map<string, BufferRef>();
  for (const { name, elem, access } of MAIN_BUFFERS) buffers.set(name, k.buffer(name, elem, access));
  const [n, count] = MAIN_SCALARS.map(({ name, kind }) => k.scalar(name, kind)) as [Expr, Expr];
  const table = (name: string, index: Expr) => k.load(buffers.get(name)!, index);
  const kept = keptValues(steps);
  const ofSequences = new Set(
    steps.flatMap((s) => s.defines.flatMap((v) => (v.few === true ? [v.name] : []))),
  );
  const logitsLines = lines(addresses.logitsStride * 4);
  const scan = addresses.scans ? k.let('scan', table('outputs', add(n, 1))) : int(0);

  k.for('t0', 0, n, block, (t0) => {
    const rows = k.let('rows', min(sub(n, t0), int(block)));
    const end = k.let('end', add(t0, rows));
    const firstOutput = k.let('firstOutput', table('outputs', t0));
    const outputs = k.let('outputCount', sub(table('outputs', end), firstOutput));
    const tokenLine = k.let('tokenLine', div(t0, LINE / 4));
    const logitsLine = k.let('logitsLine', mul(firstOutput, logitsLines));
    // Attention of a sequence's only token leaves parts; of a few tokens too, where there are several chunks to share and
    // no other sequence to take turns with. Where neither can be, nothing is to be merged.
    const several = compare(
      'lt',
      int(CHUNK),
      add(table('sequences', int(SEQUENCE_FIELDS.indexOf('position'))), end),
    );
    const few = select('lt', int(PART_TOKENS), rows, int(0), several);
    const apart = k.let(
      'apart',
      select('eq', count, int(1), select('eq', rows, int(1), int(0), few), int(0)),
    );
    const single = select('eq', count, int(1), compare('eq', rows, int(1)), int(1));
    const merging = k.let('merging', max(apart, single));
    const skippedOutputs = k.let('skippedOutputs', mul(firstOutput, scan));

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
          const skipped = kept.has(operand.name)
            ? skippedOutputs
            : ofSequences.has(operand.name)
              ? part.sequence
              : part.skipped;
          if (skipped.kind === 'const') return at('arena', first);
          return at('arena', add(mul(skipped, lines(addresses.rowBytes(operand.name))), first));
        }
        case 'high':
          return at('logits', add(logitsLine, mul(table('outputs', n), logitsLines)));
      }
    };
    const call = (step: Step, part: Rows) => {
      const write = (kernel: StepKernel, { operands, scalars }: Pick<Step, 'operands' | 'scalars'>) => {
        const args = operands.map((operand) => place(operand, part));
        const values = scalars.map((s) => ({ n: part.n, pos: part.pos, tokens: rows, apart })[s]);
        k.call(addresses.kernelName(kernel), args, values);
      };
      if (step.single === undefined) return write(step.kernel, step);
      k.if(
        compare('eq', part.n, int(1)),
        () => write(step.single!, step.singleArguments ?? step),
        () => write(step.kernel, step),
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
          body({ n: own, pos, cache, skipped: k.let('skipped', sub(from, t0)), sequence });
        });
      });
    const emit = (step: Step) => {
      if (step.merges === true) {
        k.if(compare('eq', merging, int(1)), () => {
          forSequences((part) => {
            const inParts = select('eq', part.n, int(1), int(1), apart);
            k.if(compare('eq', inParts, int(1)), () => call(step, part));
          });
          k.barrier();
        });
      } else if (step.rows === 'sequences') {
        forSequences((part) => call(step, part));
        k.barrier();
      } else {
        const n = step.rows === 'tokens' ? rows : outputs;
        const whole = () => {
          call(step, { n, pos: int(0), cache: int(0), skipped: int(0), sequence: int(0) });
          k.barrier();
        };
        if (step.alone === true) k.if(compare('eq', n, int(1)), whole);
        else whole();
      }
    };

    const ofStep = steps.filter((s) => s.rows !== 'pairs');
    const firstStep = ofStep.findIndex((s) => s.rows === 'outputs');
    const split = firstStep < 0 ? ofStep.length : firstStep;
    if (ofStep.slice(split).some((s) => s.rows !== 'outputs')) {
      throw new LutraError('internal', 'plan: a step on all tokens follows the selection of outputs');
    }
    for (const step of ofStep.slice(0, split)) emit(step);
    const ofOutput = ofStep.slice(split);
    const emitWhen = (when: Step['when']) => {
      for (const step of ofOutput.filter((s) => s.when === when)) emit(step);
    };
    k.if(compare('lt', int(0), outputs), () => {
      emitWhen(undefined);
      if (addresses.scans) {
        k.if(
          compare('eq', scan, int(1)),
          () => emitWhen('scan'),
          () => emitWhen('stored'),
        );
      }
    });
  });
  for (const { operands, kernel } of steps.filter((s) => s.rows === 'pairs')) {
    k.if(compare('eq', n, int(0)), () => {
      const args = operands.map((operand) => {
        const at = (buffer: string, bytes: number) => ({
          buffer: buffers.get(buffer)!,
          offset: int(lines(bytes)),
        });
        if (operand.kind === 'weight')
          return at('weights', addresses.weight(operand.constant, operand.region));
        if (operand.kind !== 'value') return at('tokens', 0);
        return operand.name === addresses.logits
          ? at('logits', 0)
          : at('arena', addresses.value(operand.name));
      });
      k.call(addresses.kernelName(kernel), args, [count]);
      k.barrier();
    });
  }
  return k.build();
}
