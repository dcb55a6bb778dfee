import { expectKernels } from '../artifact/self-test.ts';
import { kernelFor } from '../kernels/registry.ts';
import type { Stmt } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { statements } from '../loops/walk.ts';
import type { KernelUse, Plan } from '../plan/types.ts';
import { C_MACHINES } from '../targets/c/machines.ts';
import type { Subject } from './records.ts';
import type { Space } from './space.ts';

/** One kernel of a model, whose schedule is to be chosen. */
export interface TuneTask {
  readonly subject: Subject;
  /** Name of the kernel in the plan: for people. */
  readonly name: string;
  /** All its schedules, the default first. */
  readonly space: Space;
  /** Calls of it in a forward step. */
  readonly calls: number;
  /** Rows (tokens) of the calls to measure, and position of the first. */
  readonly n: number;
  readonly position: number;
  readonly test: { readonly seed: number; readonly digest: string };
}

const SEED = 31;
/** Tokens of a call in prefill, and how many a conversation has got to when attention is measured. */
const PREFILL_TOKENS = 64;
const POSITION = 512;

/** Kernels that run once per token of a prompt and once per token generated: decode is measured where they differ. */
function tokensOf({ op, shape }: KernelUse): number {
  if (op === 'lowbit.matmul') return shape.batch === 'one' ? 1 : PREFILL_TOKENS;
  return op === 'matmul' || op === 'attention' ? 1 : PREFILL_TOKENS;
}

function countCalls(body: readonly Stmt[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const statement of statements(body)) {
    if (statement.kind === 'call') counts.set(statement.fn, (counts.get(statement.fn) ?? 0) + 1);
  }
  return counts;
}

/**
 * The kernels of a plan that have more than one schedule on a machine, those called most first. `ops` keeps only
 * those of these operators.
 */
export function tuneTasks(plan: Plan, machine: Machine, ops?: readonly string[]): readonly TuneTask[] {
  const calls = countCalls(plan.main.body);
  const tests = expectKernels(plan, [C_MACHINES.at(-1)!], SEED);
  return plan.kernels
    .flatMap((use): TuneTask[] => {
      const test = tests[use.name];
      if (test === undefined || (ops !== undefined && !ops.includes(use.op))) return [];
      const { op, family, shape } = use;
      const space = kernelFor(op, family).schedules(shape, machine);
      if (space.length < 2) return [];
      const n = Math.min(tokensOf(use), plan.options.context - 1);
      const position = Math.min(POSITION, plan.options.context - n);
      return [
        {
          subject: { op, family, shape, machine: machine.name },
          name: use.name,
          space,
          calls: calls.get(use.name) ?? 0,
          n,
          position,
          test: { seed: test.seed, digest: test.digest },
        },
      ];
    })
    .sort((a, b) => b.calls - a.calls);
}
