import { readFile } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { isMainThread } from 'node:worker_threads';

/** What decides whether weights can be copied into huge pages. */
export interface HugePageFacts {
  readonly target: string;
  readonly platform: string;
  /** The system's setting, `always [madvise] never`; undefined where it has none. */
  readonly setting: string | undefined;
  readonly weightsBytes: number;
  readonly memoryBytes: number;
  /** Worker threads have an environment of their own, which native code does not see. */
  readonly mainThread: boolean;
}

/** Why huge pages that were asked for are not used, in words; undefined when they are. */
export function hugePagesObstacle(facts: HugePageFacts): string | undefined {
  const { target, platform, setting, weightsBytes, memoryBytes, mainThread } = facts;
  if (!target.startsWith('c:')) return `they are for native code, and ${target} runs here`;
  if (platform !== 'linux') return 'they are for Linux';
  if (setting === undefined || setting.includes('[never]')) {
    return 'the system has them turned off (/sys/kernel/mm/transparent_hugepage/enabled)';
  }
  if (weightsBytes > memoryBytes / 2) return 'a copy of the weights would take more than half of the memory';
  return mainThread ? undefined : 'the model is loaded in a worker thread';
}

/** The same for this process. */
export async function findHugePagesObstacle(
  target: string,
  weightsBytes: number,
): Promise<string | undefined> {
  const path = '/sys/kernel/mm/transparent_hugepage/enabled';
  return hugePagesObstacle({
    target,
    platform: process.platform,
    setting: await readFile(path, 'utf8').catch(() => undefined),
    weightsBytes,
    memoryBytes: totalmem(),
    mainThread: isMainThread,
  });
}
