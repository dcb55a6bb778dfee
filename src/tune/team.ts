/** Kernels as the steps of a model run them: on a team of threads, with a barrier after each. */
import { alignUp } from '../common/math.ts';
import { FunctionBuilder } from '../loops/builder.ts';
import { add, compare, int, mul, rem } from '../loops/expr.ts';
import { LINE, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS } from '../loops/ir.ts';

/** A kernel with memory for its calls, which take turns. */
export interface TeamKernel {
  readonly fn: LoopFunction;
  readonly scalars: readonly number[];
  /** Bytes of each buffer, and how many of it there are. */
  readonly buffers: readonly { readonly bytes: number; readonly copies: number }[];
}

/** Where buffers lie: what kernels read in the weights, what they write in the arena. */
export interface TeamLayout {
  readonly main: LoopFunction;
  readonly weightsBytes: number;
  readonly arenaBytes: number;
  /** By contender, kernel and buffer, where each copy begins in the weights; empty for what is written. */
  readonly offsets: readonly (readonly (readonly number[])[])[][];
}

/**
 * A `main` that runs the kernels of one of several contenders as often as it has tokens, which say: the first one how
 * many calls were before, the second one which contender. Two tokens at least.
 */
export function teamMain(contenders: readonly (readonly TeamKernel[])[]): TeamLayout {
  const m = new FunctionBuilder('main');
  const buffers = MAIN_BUFFERS.map(({ name, elem, access }) => m.buffer(name, elem, access));
  const [n] = MAIN_SCALARS.map(({ name, kind }) => m.scalar(name, kind));
  const named = (name: string) => buffers[MAIN_BUFFERS.findIndex((buffer) => buffer.name === name)]!;
  const [weights, arena, tokens] = [named('weights'), named('arena'), named('tokens')];
  const ends = { weights: 0, arena: 0 };
  const before = m.let('before', m.load(tokens, int(0)));
  const which = m.let('which', m.load(tokens, int(1)));
  const offsets = contenders.map((kernels, contender) => {
    const placed = kernels.map(({ fn, buffers: own }) =>
      own.map(({ bytes, copies }, i) => {
        const where = fn.buffers[i]!.access === 'read' ? 'weights' : 'arena';
        const [begin, stride] = [ends[where], alignUp(bytes, LINE)];
        ends[where] += copies * stride;
        return { where, begin, stride, copies } as const;
      }),
    );
    m.if(compare('eq', which, int(contender)), () =>
      m.for('call', int(0), n!, 1, (call) => {
        const turn = m.let('turn', add(before, call));
        kernels.forEach(({ fn, scalars }, i) => {
          const at = placed[i]!.map(({ where, begin, stride, copies }) => ({
            buffer: where === 'weights' ? weights : arena,
            offset: add(mul(rem(turn, copies), stride / LINE), begin / LINE),
          }));
          m.call(fn.name, at, scalars.map(int));
          m.barrier();
        });
      }),
    );
    return placed.map((own) =>
      own.map(({ where, begin, stride, copies }) =>
        where === 'weights' ? Array.from({ length: copies }, (_, c) => begin + c * stride) : [],
      ),
    );
  });
  return { main: m.build(), weightsBytes: ends.weights, arenaBytes: ends.arena, offsets };
}
