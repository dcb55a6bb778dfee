import { expectKernels } from '../artifact/self-test.ts';
import { alternatives, productKey } from '../kernels/alternatives.ts';
import { kernelFor } from '../kernels/registry.ts';
import type { Stmt } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { statements } from '../loops/walk.ts';
import type { KernelUse, Plan } from '../plan/types.ts';
import { C_MACHINES } from '../targets/c/machines.ts';
import type { Contender, KernelJob } from './job.ts';
import type { Subject } from './records.ts';
import type { Space } from './space.ts';

/** One way to compute what a kernel does: a family, and an encoding of the weights. */
export interface Variant {
  readonly subject: Subject;
  readonly before?: KernelJob;
  readonly test: { readonly seed: number; readonly digest: string };
}

/** One kernel of a model, whose family, encoding and schedule are to be chosen. */
export interface TuneTask {
  /** Name of the kernel in the plan: for people. */
  readonly name: string;
  /** The variant that the plan has, and others with equal results. */
  readonly variants: readonly Variant[];
  /** All choices, the default first: schedules, with family and encoding where there are several variants. */
  readonly space: Space;
  /** Of each choice, its variant and what it is without that. */
  readonly choices: readonly { readonly variant: number; readonly schedule: Contender['schedule'] }[];
  /** Tasks of the same product must agree on a variant: they read the same weights. */
  readonly product?: string;
  /** Calls of it in a forward step. */
  readonly calls: number;
  /** Rows (tokens) of the calls to measure, those that matter most first, and position of the first. */
  readonly tokens: readonly number[];
  readonly position: number;
}

const SEED = 31;
/** Tokens of a call in prefill, and how many a conversation has got to when attention is measured. */
const PREFILL_TOKENS = 64;
const POSITION = 512;
/** Tokens of a step of several sequences, or with guesses to check: kernels have other ways for these. */
const FEW_TOKENS = [4, 12];

/**
 * What runs once per token that is generated is measured with one token, the rest with those of a prompt; products, the
 * output head among them, also with a few.
 */
function tokensOf({ op, shape }: Pick<KernelUse, 'op' | 'shape'>): readonly number[] {
  if (shape.batch === 'one') return [1];
  if (shape.batch === 'many') return [PREFILL_TOKENS, ...FEW_TOKENS];
  return op === 'matmul' ? [1, ...FEW_TOKENS] : [PREFILL_TOKENS];
}

function countCalls(body: readonly Stmt[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const statement of statements(body)) {
    if (statement.kind === 'call') counts.set(statement.fn, (counts.get(statement.fn) ?? 0) + 1);
  }
  return counts;
}

/** The variants of a kernel whose test the interpreter gave, the plan's first. */
function variantsOf(use: KernelUse, machine: Machine): readonly Variant[] {
  const found = alternatives(use);
  const uses = found.map((other, i) => ({ ...other, name: `${use.name}_v${i}` }));
  const tests = expectKernels({ kernels: uses }, [C_MACHINES.at(-1)!], SEED);
  return uses.flatMap(({ name, op, family, shape, before }) => {
    const test = tests[name];
    if (test === undefined) return [];
    const { seed, digest } = test;
    const subject = { op, family, shape: { ...shape }, machine: machine.name };
    if (before === undefined) return [{ subject, test: { seed, digest } }];
    const schedule = kernelFor(before.op, before.family).defaultSchedule(before.shape, machine);
    const first = { ...before, shape: { ...before.shape }, schedule: { ...schedule } };
    return [{ subject, before: first, test: { seed, digest } }];
  });
}

/** How people and records tell variants of a kernel apart. */
export function variantName({ family, shape }: Pick<Subject, 'family' | 'shape'>): string {
  return [family, shape.encoding].filter((part) => part !== undefined).join(' ');
}

/**
 * The kernels of a plan that can be computed in more than one way on a machine, those called most first. `ops` keeps
 * only those of these operators.
 */
export function tuneTasks(plan: Plan, machine: Machine, ops?: readonly string[]): readonly TuneTask[] {
  const calls = countCalls(plan.main.body);
  return plan.kernels
    .filter((use) => use.node === undefined && (ops === undefined || ops.includes(use.op)))
    .flatMap((use): TuneTask[] => {
      if (alternatives(use).length < 2 && spaceOf(use, machine).length < 2) return [];
      const variants = variantsOf(use, machine);
      const choices = variants.flatMap(({ subject }, variant) =>
        spaceOf(subject, machine).map((schedule) => ({ variant, schedule: { ...schedule } })),
      );
      if (choices.length < 2) return [];
      const space = choices.map(({ variant, schedule }) => {
        const { family, shape } = variants[variant]!.subject;
        return variants.length < 2 ? schedule : { family, encoding: shape.encoding!, ...schedule };
      });
      const { context } = plan.options;
      const tokens = [...new Set(tokensOf(use).map((n) => Math.min(n, context - 1)))];
      const position = Math.min(POSITION, context - Math.max(...tokens));
      const product = productKey(use, true);
      return [
        {
          name: use.name,
          variants,
          space,
          choices,
          ...(product === undefined ? {} : { product }),
          calls: calls.get(use.name) ?? 0,
          tokens,
          position,
        },
      ];
    })
    .sort((a, b) => b.calls - a.calls);
}

function spaceOf({ op, family, shape }: Pick<KernelUse, 'op' | 'family' | 'shape'>, machine: Machine): Space {
  return kernelFor(op, family).schedules(shape, machine);
}
