import { table } from '../render.ts';
import type { KernelProfile, PhaseProfile } from './profile.ts';
import type { ProfileReport } from './run-profile.ts';

const MIB = 2 ** 20;

/** Empty where there is nothing to say. */
function amount(value: number, digits = 1): string {
  return value === 0 ? '' : value.toFixed(digits);
}

function row(kernel: KernelProfile, phase: PhaseProfile): (string | number)[] {
  const { calls, milliseconds, waiting, weightBytes, cacheBytes, activationBytes, operations } = kernel;
  const bytes = weightBytes + cacheBytes + activationBytes;
  const nanoseconds = 1e6 * milliseconds;
  const times = operations + kernel.floatOperations;
  return [
    kernel.kernel,
    calls,
    (milliseconds / phase.steps).toFixed(3),
    `${((100 * milliseconds) / phase.milliseconds).toFixed(1)} %`,
    `${(100 * waiting).toFixed(0)} %`,
    amount(weightBytes / calls / MIB, 2),
    amount(cacheBytes / calls / MIB, 2),
    amount(activationBytes / calls / MIB, 2),
    amount(bytes / nanoseconds),
    amount(times / nanoseconds),
  ];
}

function renderPhase(phase: PhaseProfile): string {
  const kernels = phase.kernels.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  const rest = phase.milliseconds - kernels;
  const share = `${((100 * rest) / phase.milliseconds).toFixed(1)} %`;
  const head = ['kernel', 'calls', 'ms/step', 'time', 'waits', 'weights', 'cache', 'rest', 'GB/s', 'GOP/s'];
  const speed = (1000 * phase.tokens) / phase.milliseconds;
  const rows = phase.kernels.map((kernel) => row(kernel, phase));
  return [
    `\n${phase.phase}: ${phase.tokens} tokens in ${phase.steps} steps, ${speed.toFixed(1)} tokens/s\n`,
    table([head, ...rows, ['(around the kernels)', phase.steps, (rest / phase.steps).toFixed(3), share]]),
  ].join('');
}

/** The profile as tables: kernels by the time they take. */
export function renderProfile({ model, target, threads, batch, trace, phases }: ProfileReport): string {
  const sequences = batch === undefined ? '' : `, ${batch} sequences at once`;
  return [
    `${model} on ${target}, ${threads} thread${threads === 1 ? '' : 's'}${sequences}\n`,
    ...phases.map(renderPhase),
    '\nweights, cache and rest (activations) are MiB a call, each byte counted once; waits: the mean share of a\n',
    "kernel's time in which a thread waited for the others; GOP/s counts multiplications and additions.\n",
    `trace: ${trace} (open it in ui.perfetto.dev or chrome://tracing)\n`,
  ].join('');
}
