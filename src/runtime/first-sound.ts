/** Runs nothing that was not tested first. Free of Node, so that browsers do the same. */
import { findWrongKernels, type KernelTests, runSteps, type SelfTest } from '../artifact/self-test.ts';
import { LutraError } from '../common/errors.ts';
import type { Executable } from '../targets/executable.ts';

/** A program and what it must compute. */
export interface Testable<Candidate> {
  start(candidate: Candidate): Promise<Executable>;
  readonly kernels: KernelTests;
  readonly steps?: SelfTest['steps'];
  /** Ends the test, with `cancelled`, between kernels and steps. */
  readonly signal?: AbortSignal;
}

/** What is wrong with an executable, in words; undefined when it computes what it must. */
async function findFault(
  executable: Executable,
  { kernels, steps, signal }: Omit<Testable<never>, 'start'>,
): Promise<string | undefined> {
  const wrong = await findWrongKernels(executable, kernels, signal);
  if (wrong.length > 0) return `wrong results from ${wrong.join(', ')}`;
  if (steps === undefined) return undefined;
  if ((await runSteps(executable, steps.tokens, signal)) !== steps.digest) return 'wrong logits';
  return undefined;
}

/**
 * Starts the first of the candidates that passes the self-test; says what was wrong with those before it.
 * `trusted` and `remember` let a machine test an artifact only once.
 */
export async function startFirstSound<
  Candidate extends { readonly machine: string; readonly label?: string },
>(
  chain: readonly Candidate[],
  test: Testable<Candidate>,
  onWarning: ((message: string) => void) | undefined,
  trust: { isTrusted(candidate: Candidate): Promise<boolean>; passed(candidate: Candidate): Promise<void> },
): Promise<Executable> {
  const faults: string[] = [];
  for (const candidate of chain) {
    if (test.signal?.aborted) throw new LutraError('cancelled', 'cancelled');
    let executable: Executable | undefined;
    let fault: string | undefined;
    let tested = false;
    try {
      executable = await test.start(candidate);
      if (await trust.isTrusted(candidate)) return executable;
      tested = true;
      fault = await findFault(executable, test);
      if (fault === undefined) {
        await trust.passed(candidate);
        return executable;
      }
    } catch (error) {
      if (test.signal?.aborted) {
        await executable?.close();
        throw error;
      }
      // A model that does not fit, a library that does not load: the next target may do better.
      fault = error instanceof Error ? error.message : String(error);
    }
    await executable?.close();
    const name = candidate.label ?? candidate.machine;
    faults.push(`${name}: ${fault}`);
    const failed = tested ? 'failed its self-test' : 'cannot be started';
    onWarning?.(`${name} ${failed} (${fault}); falling back to the next target`);
  }
  throw new LutraError('environment', `no target runs this model correctly here: ${faults.join('; ')}`, {
    hint: 'The artifact or the machine is damaged: compile the model again, and report it if that does not help.',
  });
}
