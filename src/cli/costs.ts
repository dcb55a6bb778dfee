/** What a model would cost on this machine, before it is compiled. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { cacheFolder } from '../artifact/cache.ts';
import { LutraError } from '../common/errors.ts';
import { streamedRanges } from '../plan/streamed.ts';
import type { Plan } from '../plan/types.ts';

export interface Costs {
  /** Of the model's files; absent for a compiled model. */
  readonly checkpointBytes?: number;
  /** What of them is still on the hub. */
  readonly downloadBytes: number;
  /** Of a compiled model, but for code and texts. */
  readonly compiledBytes: number;
  /** Weights, activations and the cache of one session. */
  readonly memoryBytes: number;
  readonly speed: Speed | { readonly unknown: string };
}

/** Decoding with a short context, bound by memory: each token reads all weights that no lookup chooses from. */
export interface Speed {
  readonly tokensPerSecond: number;
  readonly bytesPerToken: number;
  readonly bytesPerSecond: number;
  readonly target: string;
  readonly threads: number;
}

/** Measured again after so long. */
const VALID_MS = 24 * 3600 * 1000;

/**
 * Sizes from the plan, and the speed that the measured bandwidth of memory allows.
 * @param measure bytes per second that so many threads read; what it gives is kept in the user's cache for a day
 */
export async function estimateCosts(
  plan: Plan,
  target: string,
  threads: number,
  checkpoint: { readonly bytes: number; readonly remote: number } | undefined,
  measure: (target: string, threads: number) => Promise<number>,
): Promise<Costs> {
  const { weightsBytes, arenaBytes, cacheBytes } = plan;
  const bytesPerToken = streamedRanges(plan).reduce((sum, { bytes }) => sum + bytes, 0);
  return {
    ...(checkpoint === undefined ? {} : { checkpointBytes: checkpoint.bytes }),
    downloadBytes: checkpoint?.remote ?? 0,
    compiledBytes: weightsBytes,
    memoryBytes: weightsBytes + arenaBytes + cacheBytes,
    speed: await bandwidthOf(target, threads, measure).then(
      (bytesPerSecond) => ({
        tokensPerSecond: bytesPerSecond / bytesPerToken,
        bytesPerToken,
        bytesPerSecond,
        target,
        threads,
      }),
      (error: unknown) => {
        if (!(error instanceof LutraError) || error.code === 'cancelled') throw error;
        return { unknown: error.message };
      },
    ),
  };
}

/** The bandwidth that was measured before, or else now. */
async function bandwidthOf(
  target: string,
  threads: number,
  measure: (target: string, threads: number) => Promise<number>,
): Promise<number> {
  const path = join(cacheFolder(), 'bandwidth', `${target.replace(/\W/g, '-')}-${threads}.json`);
  const known = await readFile(path, 'utf8')
    .then(JSON.parse)
    .catch(() => undefined);
  const { bytesPerSecond, measured } = known ?? {};
  const recent = typeof measured === 'number' && Math.abs(Date.now() - measured) < VALID_MS;
  if (recent && typeof bytesPerSecond === 'number' && bytesPerSecond > 0) return bytesPerSecond;
  const found = await measure(target, threads);
  // A cache that cannot be written is no reason to fail.
  await mkdir(dirname(path), { recursive: true })
    .then(() => writeFile(path, JSON.stringify({ bytesPerSecond: found, measured: Date.now() })))
    .catch(() => undefined);
  return found;
}
