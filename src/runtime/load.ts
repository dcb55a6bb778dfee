import { WEIGHTS_FILE } from '../artifact/manifest.ts';
import { type Artifact, verifyHashes } from '../artifact/open.ts';
import { findWrongKernels, type KernelTests, runSteps, type SelfTest } from '../artifact/self-test.ts';
import { LutraError } from '../common/errors.ts';
import { lookupTables } from '../plan/lookups.ts';
import { nodePlatform } from '../platform/node.ts';
import { detectCpu } from '../targets/cpu.ts';
import type { Executable } from '../targets/executable.ts';
import { detectWasmMachines } from '../targets/wasm/machines.ts';
import { findHugePagesObstacle } from './huge-pages.ts';
import { type Runnable, startExecutable } from './start.ts';
import { type Candidate, candidates, defaultThreads, type Host } from './targets.ts';
import { isVerified, rememberVerified } from './verified.ts';

export async function detectHost(): Promise<Host> {
  return { cpu: await detectCpu(), wasm: detectWasmMachines(nodePlatform) };
}

/** A program and what it must compute. */
export interface Testable {
  readonly runnable: Runnable;
  readonly kernels: KernelTests;
  readonly steps?: SelfTest['steps'];
}

/** What is wrong with an executable, in words; undefined when it computes what it must. */
async function findFault(executable: Executable, test: Testable): Promise<string | undefined> {
  const wrong = await findWrongKernels(executable, test.kernels);
  if (wrong.length > 0) return `wrong results from ${wrong.join(', ')}`;
  if (test.steps === undefined) return undefined;
  if ((await runSteps(executable, test.steps.tokens)) !== test.steps.digest) return 'wrong logits';
  return undefined;
}

export interface StartOptions {
  readonly threads: number;
  readonly onWarning?: (message: string) => void;
}

/**
 * Starts the first of the candidates that passes the self-test; says what was wrong with those before it.
 * `trusted` and `remember` let a machine test an artifact only once.
 */
export async function startFirstSound(
  chain: readonly Candidate[],
  test: Testable,
  options: StartOptions,
  trust: { isTrusted(candidate: Candidate): Promise<boolean>; passed(candidate: Candidate): Promise<void> },
): Promise<Executable> {
  const faults: string[] = [];
  for (const candidate of chain) {
    let executable: Executable | undefined;
    let fault: string | undefined;
    try {
      executable = await startExecutable(test.runnable, candidate, options.threads);
      if (await trust.isTrusted(candidate)) return executable;
      fault = await findFault(executable, test);
      if (fault === undefined) {
        await trust.passed(candidate);
        return executable;
      }
    } catch (error) {
      // A model that does not fit, a library that does not load: the next target may do better.
      fault = error instanceof Error ? error.message : String(error);
    }
    await executable?.close();
    faults.push(`${candidate.machine}: ${fault}`);
    options.onWarning?.(
      `${candidate.machine} failed its self-test (${fault}); falling back to the next target`,
    );
  }
  throw new LutraError('environment', `no target runs this model correctly here: ${faults.join('; ')}`, {
    hint: 'The artifact or the machine is damaged: compile the model again, and report it if that does not help.',
  });
}

/**
 * Starts an artifact: hashes and self-test are checked the first time on this machine, then remembered.
 * Throws `invalid` for changed files, `environment` when nothing of it runs here.
 */
export async function startArtifact(
  artifact: Artifact,
  options: {
    readonly target?: string;
    readonly threads?: number;
    readonly hugePages?: boolean;
    readonly onWarning?: (message: string) => void;
    readonly signal?: AbortSignal;
  },
): Promise<Executable> {
  const host = await detectHost();
  const { manifest, path, plan, selfTest } = artifact;
  const chain = candidates(options.target ?? manifest.target, manifest.code, host);
  const { cpu } = host;
  if (!(await isVerified(path, manifest, 'files', cpu))) {
    await verifyHashes(artifact, options.signal);
    await rememberVerified(path, manifest, 'files', cpu);
  }
  const { onWarning, hugePages } = options;
  const executable = await startFirstSound(
    chain,
    {
      runnable: {
        path,
        needs: manifest.needs,
        code: manifest.code,
        lookups: lookupTables(plan),
        ...(hugePages === undefined ? {} : { hugePages }),
      },
      kernels: selfTest.kernels,
      steps: selfTest.steps,
    },
    {
      threads: options.threads ?? defaultThreads(host.cpu),
      ...(onWarning === undefined ? {} : { onWarning }),
    },
    {
      isTrusted: ({ machine }) => isVerified(path, manifest, machine, cpu),
      passed: ({ machine }) => rememberVerified(path, manifest, machine, cpu),
    },
  );
  if (hugePages && onWarning !== undefined) {
    const obstacle = await findHugePagesObstacle(executable.target, manifest.files[WEIGHTS_FILE]?.bytes ?? 0);
    if (obstacle !== undefined) onWarning(`no huge pages: ${obstacle}`);
  }
  return executable;
}
