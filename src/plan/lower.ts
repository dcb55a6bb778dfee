import { LutraError } from '../common/errors.ts';
import type { Node } from '../graph/ir.ts';
import { kernelFor } from '../kernels/registry.ts';
import type { LoopFunction, Program } from '../loops/ir.ts';
import { legalize } from '../loops/legalize.ts';
import type { Machine } from '../loops/machine.ts';
import { verifyProgram } from '../loops/verify.ts';
import type { KernelUse, Plan } from './types.ts';

/**
 * The kernel of a user-registered operator: the function for a node, under the given name. The node has its
 * attributes and output types; its values' names are placeholders, since equal nodes share a kernel.
 */
export type OperatorKernel = (node: Node, name: string) => LoopFunction;

/** Kernels of user-registered operators, by operator name. */
export type OperatorKernels = ReadonlyMap<string, OperatorKernel>;

function buildOwn(use: KernelUse, machine: Machine): LoopFunction {
  const kernel = kernelFor(use.op, use.family);
  return kernel.build(use.name, use.shape, kernel.defaultSchedule(use.shape, machine));
}

function buildCustom(use: KernelUse, node: Node, custom: OperatorKernels): LoopFunction {
  const make = custom.get(use.op);
  if (make !== undefined) return make(node, use.name);
  throw new LutraError('unsupported', `the model needs the user-registered operator ${use.op}`, {
    hint: 'Pass its kernel where the model is compiled.',
  });
}

/** The kernels of a plan that are lutra's own, scheduled for a machine; those of user operators are left out. */
export function scheduleOwnKernels(plan: Pick<Plan, 'kernels'>, machine: Machine): readonly LoopFunction[] {
  return plan.kernels.filter((use) => use.node === undefined).map((use) => buildOwn(use, machine));
}

/** The program of a plan as kernels write it, scheduled for a machine but with vectors of any width. */
export function scheduleProgram(plan: Plan, machine: Machine, custom: OperatorKernels = new Map()): Program {
  const functions = plan.kernels.map((use) =>
    use.node === undefined ? buildOwn(use, machine) : buildCustom(use, use.node, custom),
  );
  const program = { functions, main: plan.main };
  verifyProgram(program);
  return program;
}

/** The program of a plan in what the machine has: what targets turn into code. */
export function lowerProgram(plan: Plan, machine: Machine, custom: OperatorKernels = new Map()): Program {
  const { functions, main } = scheduleProgram(plan, machine, custom);
  return { functions: functions.map((fn) => legalize(fn, machine)), main: legalize(main, machine) };
}
