import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LutraError } from '../common/errors.ts';
import { quote } from './failure.ts';
import { type DownloadOptions, downloadModel } from './hub/download.ts';
import type { HubEnvironment } from './hub/proxy.ts';
import { openRemote, type RemoteModel } from './hub/remote.ts';
import { hubSettings, type Patience } from './hub/settings.ts';
import { hasHubPrefix, looksLikeRepo, parseRepoSpec } from './hub/spec.ts';

export interface ResolveOptions extends DownloadOptions {
  /** Default: the environment of the process. */
  readonly env?: HubEnvironment;
  /** Default: five attempts, with waits from one second on. */
  readonly patience?: Patience;
}

/** The path of the model that comes with lutra for `embedded`; anything else as it is. */
export function modelSource(spec: string): string {
  if (spec !== 'embedded') return spec;
  // The same place seen from src/checkpoint and from dist/checkpoint.
  return fileURLToPath(new URL('../../models/tiny-bitnet', import.meta.url));
}

/**
 * Finds the folder of a model: `embedded`, `spec` itself if there is such a path, otherwise the model of that name on
 * the hub (`organization/name[@revision]`, with `hf:` before it to say so explicitly), downloaded if needed.
 * @returns the path of a local folder (or of what the user took for one), for openCheckpoint
 * @throws `not-found` for what is neither; otherwise as `downloadModel` does
 */
export async function resolveModel(spec: string, options: ResolveOptions = {}): Promise<string> {
  const { env = process.env, patience, ...download } = options;
  const source = modelSource(spec);
  if (await isLocal(source)) return resolve(source);
  return downloadModel(await hubSettings(env, patience), parseRepoSpec(spec), download);
}

/**
 * A model of the hub by its headers, without a download; undefined for a local path.
 * @throws `not-found` for what is neither; otherwise as `openRemote` does
 */
export async function openUnfetched(
  spec: string,
  { env = process.env, patience, ...options }: Omit<ResolveOptions, 'onProgress'> = {},
): Promise<RemoteModel | undefined> {
  if (await isLocal(spec)) return undefined;
  const hub = await hubSettings(env, patience);
  return openRemote(hub, parseRepoSpec(spec), options);
}

/** Whether a path is meant, which then exists, or a model of the hub. */
async function isLocal(spec: string): Promise<boolean> {
  if (hasHubPrefix(spec)) return false;
  if (await exists(spec)) return true;
  if (looksLikeRepo(spec)) return false;
  throw new LutraError('not-found', `there is no folder or file ${quote(spec)}`, {
    hint: 'Give the folder of a checkpoint, a GGUF file, a model of the hub as hf:organization/name, or embedded.',
  });
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
