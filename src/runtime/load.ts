import { WEIGHTS_FILE } from '../artifact/manifest.ts';
import { type Artifact, verifyHashes } from '../artifact/open.ts';
import { lookupTables } from '../plan/lookups.ts';
import { nodePlatform } from '../platform/node.ts';
import { detectCpu } from '../targets/cpu.ts';
import type { Executable } from '../targets/executable.ts';
import { detectWasmMachines } from '../targets/wasm/machines.ts';
import { startFirstSound } from './first-sound.ts';
import { findHugePagesObstacle } from './huge-pages.ts';
import { type Runnable, startExecutable } from './start.ts';
import { candidates, defaultThreads, type Host } from './targets.ts';
import { isVerified, rememberVerified } from './verified.ts';

export async function detectHost(): Promise<Host> {
  const { optimizes } = nodePlatform;
  return { cpu: await detectCpu(), wasm: detectWasmMachines(nodePlatform), optimizes };
}

/**
 * Starts an artifact: hashes and self-test are checked the first time on this machine, then remembered.
 * Throws `invalid` for changed files, `environment` when nothing of it runs here, `cancelled`.
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
  const { onWarning, hugePages, signal } = options;
  const here = `${process.platform}-${process.arch}`;
  const code = manifest.code.filter(({ platform }) => platform === undefined || platform === here);
  const target = options.target ?? manifest.target;
  const chain = candidates(target, code, host);
  const foreign = manifest.code.filter(({ platform }) => platform !== undefined && platform !== here);
  if (foreign.length > 0 && chain.every(({ kind }) => kind === 'wasm') && !target.startsWith('wasm')) {
    const platforms = foreign.map(({ platform }) => platform).join(', ');
    onWarning?.(`${path} has native code for ${platforms}, not for ${here}: it runs as WebAssembly here`);
  }
  const { cpu } = host;
  if (!(await isVerified(path, manifest, 'files', cpu))) {
    await verifyHashes(artifact, signal);
    await rememberVerified(path, manifest, 'files', cpu);
  }
  const threads = options.threads ?? defaultThreads(host.cpu);
  const runnable: Runnable = {
    path,
    needs: manifest.needs,
    code: manifest.code,
    lookups: lookupTables(plan),
    ...(hugePages === undefined ? {} : { hugePages }),
  };
  const executable = await startFirstSound(
    chain,
    {
      start: (candidate) => startExecutable(runnable, candidate, threads),
      kernels: selfTest.kernels,
      steps: selfTest.steps,
      ...(signal && { signal }),
    },
    onWarning,
    {
      isTrusted: ({ machine, label = machine }) => isVerified(path, manifest, label, cpu),
      passed: ({ machine, label = machine }) => rememberVerified(path, manifest, label, cpu),
    },
  );
  if (hugePages && onWarning !== undefined) {
    const obstacle = await findHugePagesObstacle(executable.target, manifest.files[WEIGHTS_FILE]?.bytes ?? 0);
    if (obstacle !== undefined) onWarning(`no huge pages: ${obstacle}`);
  }
  return executable;
}
