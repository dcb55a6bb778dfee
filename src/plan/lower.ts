import { LutraError } from '../common/errors.ts';
import type { Node } from '../graph/ir.ts';
import { buildScheduled, withoutGrain } from '../kernels/grain.ts';
import { sameSchedule } from '../kernels/kernel.ts';
import { kernelFor } from '../kernels/registry.ts';
import type { LoopFunction, Program } from '../loops/ir.ts';
import { legalize } from '../loops/legalize.ts';
import type { Machine } from '../loops/machine.ts';
import { verifyProgram } from '../loops/verify.ts';
import type { KernelUse, Plan, TunedSchedule } from './types.ts';

/**
 * The kernel of a user-registered operator: the function for a node, under the given name. The node has its
 * attributes and output types; its values' names are placeholders, since equal nodes share a kernel.
 */
export type OperatorKernel = (node: Node, name: string) => LoopFunction;

/** Kernels of user-registered operators, by operator name. */
export type OperatorKernels = ReadonlyMap<string, OperatorKernel>;

/** Equal for equal kernels, whatever the order of the fields of their shapes. */
export function kernelKey({ op, family, shape }: Pick<KernelUse, 'op' | 'family' | 'shape'>): string {
  return JSON.stringify([op, family, Object.entries(shape).sort(([a], [b]) => (a < b ? -1 : 1))]);
}

/** The schedule tuned for a kernel on a machine, if it is one that the kernel still has, threads aside. */
function tunedSchedule(use: KernelUse, machine: Machine, tuned: readonly TunedSchedule[]) {
  const key = kernelKey(use);
  const found = tuned.findLast((t) => t.machine === machine.name && kernelKey(t) === key)?.schedule;
  if (found === undefined) return undefined;
  const own = withoutGrain(found);
  const known = kernelFor(use.op, use.family).schedules(use.shape, machine);
  return known.some((schedule) => sameSchedule(schedule, own)) ? found : undefined;
}

function buildOwn(use: KernelUse, machine: Machine, tuned: readonly TunedSchedule[]): LoopFunction {
  const schedule =
    tunedSchedule(use, machine, tuned) ?? kernelFor(use.op, use.family).defaultSchedule(use.shape, machine);
  return buildScheduled(use, use.name, schedule);
}

function buildCustom(use: KernelUse, node: Node, custom: OperatorKernels): LoopFunction {
  const make = custom.get(use.op);
  if (make !== undefined) return make(node, use.name);
  throw new LutraError('unsupported', `the model needs the user-registered operator ${use.op}`, {
    hint: 'Pass its kernel where the model is compiled.',
  });
}

/** The kernels of a plan that are lutra's own, scheduled for a machine; those of user operators are left out. */
export function scheduleOwnKernels(
  plan: Pick<Plan, 'kernels'>,
  machine: Machine,
  tuned: readonly TunedSchedule[] = [],
): readonly LoopFunction[] {
  return plan.kernels.filter((use) => use.node === undefined).map((use) => buildOwn(use, machine, tuned));
}

/** What a program is made with besides its plan: kernels of the user's operators, schedules found by tuning. */
export interface Scheduling {
  readonly custom?: OperatorKernels;
  readonly tuned?: readonly TunedSchedule[];
}

/** The program of a plan as kernels write it, scheduled for a machine but with vectors of any width. */
export function scheduleProgram(plan: Plan, machine: Machine, scheduling: Scheduling = {}): Program {
  const { custom = new Map(), tuned = [] } = scheduling;
  const functions = plan.kernels.map((use) =>
    use.node === undefined ? buildOwn(use, machine, tuned) : buildCustom(use, use.node, custom),
  );
  const program = { functions, main: plan.main };
  verifyProgram(program);
  return program;
}

/** The program of a plan in what the machine has: what targets turn into code. */
export function lowerProgram(plan: Plan, machine: Machine, scheduling: Scheduling = {}): Program {
  const { functions, main } = scheduleProgram(plan, machine, scheduling);
  return { functions: functions.map((fn) => legalize(fn, machine)), main: legalize(main, machine) };
}
