/**
 * Downloads a model of the Hugging Face hub into the cache that the hub's own tools use, so that models are
 * shared with them.
 *
 * A client of our own, since @huggingface/hub (2.x) does not resume, verify hashes, report progress or
 * cancel in `downloadFileToCacheDir`: what it would save us, a few requests, is the small part.
 */
import { mkdir, readFile, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { LutraError } from '../../common/errors.ts';
import { fileFailure, quote } from '../failure.ts';
import { chooseGguf, ggufShards, isGguf } from '../gguf/choose.ts';
import { TEXT_FILES } from '../open.ts';
import { findWeights, noWeights, parseWeightIndex } from '../weight-index.ts';
import { blobPath, cachedModel, isCached, publishSnapshot, repoFolder, snapshotFolder } from './cache.ts';
import { describeFile, isCommit, type Listing, listFiles, type RemoteFile } from './listing.ts';
import { resumableBytes } from './partial.ts';
import { cancelled } from './retry.ts';
import type { HubSettings } from './settings.ts';
import type { RepoSpec } from './spec.ts';
import { type Transfer, transferFile } from './transfer.ts';

export interface DownloadOptions {
  readonly signal?: AbortSignal;
  /** Bytes over all files that were missing; `done` can fall when a part turns out to be useless. */
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
  /** Told when the hub cannot be reached, and whether it is tried again or the cache used instead. */
  readonly onWarning?: (message: string) => void;
}

const PARALLEL = 4;

/**
 * Brings what openCheckpoint reads of a model into the cache: configuration, tokenizer, template and
 * safetensors files; each verified by its hash. A model whose commit is given, and is complete in the cache,
 * needs no network; neither does any other that is complete, when the hub cannot be reached.
 * @returns the folder of the snapshot, or the path of the GGUF file in it
 * @throws `not-found`, `network`, `cancelled`; `usage` for a model of several GGUF files, of which none was
 *   named; `unsupported` for a model without safetensors or GGUF; `invalid` for
 *   a file that keeps arriving damaged; `environment` when the disk is or would get full
 */
export async function downloadModel(
  hub: HubSettings,
  spec: RepoSpec,
  options: DownloadOptions = {},
): Promise<string> {
  const signal = options.signal ?? new AbortController().signal;
  if (signal.aborted) throw cancelled(signal);
  const folder = repoFolder(hub, spec);
  const cached = await cachedModel(folder, spec);
  if (cached !== undefined && (isCommit(spec.revision) || hub.offline)) return cached;
  if (hub.offline) {
    throw new LutraError('network', `${spec.repo} is not (completely) in the cache ${hub.cache}`, {
      hint: 'Unset HF_HUB_OFFLINE to download it.',
    });
  }
  const patience = cached === undefined ? hub.patience : impatient(hub);
  const listed = await listFiles(hub, spec, patience, signal, options.onWarning);
  if (!listed.ok) {
    if (cached === undefined) throw listed.failure;
    options.onWarning?.(`${listed.failure.message}; using the copy of ${spec.repo} in the cache`);
    return cached;
  }
  const { commit } = listed.value;
  const transfer = { hub, spec, commit, folder, signal, onBytes: () => undefined };
  const gguf = chosenGguf(spec, listed.value);
  const files =
    gguf === undefined
      ? await requiredFiles(transfer, listed.value)
      : await Promise.all(ggufShards(gguf).map((name) => remoteFile(transfer, listed.value, name)));
  const missing: RemoteFile[] = [];
  for (const file of files) if (!(await isCached(folder, commit, file))) missing.push(file);
  await transferAll(transfer, missing, options.onProgress);
  const snapshot = await publishSnapshot(folder, spec.revision, commit, files);
  return gguf === undefined ? snapshot : join(snapshot, gguf);
}

/** The GGUF file to take: the one that was named, or the only one of a model that has no safetensors. */
export function chosenGguf({ repo, revision, file }: RepoSpec, { files }: Listing): string | undefined {
  const names = [...files.keys()];
  if (file !== undefined) {
    if (files.has(file)) return ggufShards(file)[0];
    const candidates = names.filter(isGguf).map((name) => quote(`hf:${repo}/${name}`).slice(1, -1));
    throw new LutraError('not-found', `the model ${repo} has no file ${quote(file)}`, {
      hint:
        candidates.length === 0 ? 'It has no GGUF files.' : `It has ${candidates.slice(0, 20).join(', ')}.`,
    });
  }
  if (files.has('config.json') && findWeights(names) !== undefined) return undefined;
  const at = revision === 'main' ? '' : `@${revision}`;
  return chooseGguf(names, `the model ${repo}`, (name) => `hf:${repo}/${name}${at}`);
}

/** With a copy at hand, an unreachable hub is not worth a long wait. */
function impatient({ patience }: HubSettings): HubSettings['patience'] {
  return { ...patience, attempts: 1, stallMs: Math.min(patience.stallMs, 10_000) };
}

/** The files to have; the index of shards is downloaded to know. */
async function requiredFiles(transfer: Transfer, listing: Listing): Promise<RemoteFile[]> {
  const { spec, folder, commit } = transfer;
  const where = `the model ${spec.repo}`;
  const names = [...listing.files.keys()];
  const weights = findWeights(names);
  if (weights === undefined) throw noWeights(where, names);
  if (!listing.files.has('config.json')) {
    throw new LutraError('not-found', `${where} has no config.json`, {
      hint: 'It is not a model that lutra can read.',
    });
  }
  const files = await Promise.all(
    TEXT_FILES.filter((name) => listing.files.has(name)).map((name) => remoteFile(transfer, listing, name)),
  );
  if (weights.kind === 'single') return [...files, await remoteFile(transfer, listing, weights.name)];
  const index = await remoteFile(transfer, listing, weights.name);
  if (!(await isCached(folder, commit, index))) await transferFile(transfer, index);
  const shards = new Set(
    parseWeightIndex(await readCached(transfer, index), `${where}: ${weights.name}`).values(),
  );
  return [
    ...files,
    index,
    ...(await Promise.all([...shards].map((name) => remoteFile(transfer, listing, name)))),
  ];
}

async function remoteFile(transfer: Transfer, listing: Listing, name: string): Promise<RemoteFile> {
  if (!listing.files.has(name)) {
    throw new LutraError('not-found', `the model ${transfer.spec.repo} has no ${name}, which belongs to it`, {
      hint: 'The upload may be incomplete: try again later, or another revision.',
    });
  }
  const { hub, spec, commit, signal } = transfer;
  return listing.files.get(name) ?? describeFile(hub, spec, commit, name, signal);
}

async function readCached({ folder, commit }: Transfer, file: RemoteFile): Promise<string> {
  return readFile(blobPath(folder, file.etag), 'utf8').catch(() =>
    readFile(join(snapshotFolder(folder, commit), file.path), 'utf8'),
  );
}

/** Transfers a few files at a time; the first failure stops all of them. */
async function transferAll(
  transfer: Transfer,
  missing: readonly RemoteFile[],
  onProgress: DownloadOptions['onProgress'],
): Promise<void> {
  // Files of the same content are one blob. Small ones first: they show soonest what is wrong.
  const files = [...new Map(missing.map((file) => [file.etag, file])).values()].sort(
    (a, b) => a.size - b.size,
  );
  await requireSpace(transfer, files);
  const total = files.reduce((sum, file) => sum + file.size, 0);
  let done = 0;
  const stop = new AbortController();
  const all: Transfer = {
    ...transfer,
    signal: AbortSignal.any([transfer.signal, stop.signal]),
    onBytes(bytes) {
      done += bytes;
      onProgress?.(done, total);
    },
  };
  let failure: unknown;
  const worker = async () => {
    for (let file = files.shift(); file !== undefined && !stop.signal.aborted; file = files.shift()) {
      try {
        await transferFile(all, file);
      } catch (error) {
        failure ??= error;
        stop.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, worker));
  if (failure !== undefined) throw failure;
}

async function requireSpace({ folder, hub }: Transfer, files: readonly RemoteFile[]): Promise<void> {
  const blobs = join(folder, 'blobs');
  let needed = 0;
  try {
    await mkdir(blobs, { recursive: true });
    for (const file of files) needed += Math.max(0, file.size - (await resumableBytes(blobs, file.etag)));
    const { bavail, bsize } = await statfs(blobs);
    if (needed <= bavail * bsize) return;
    const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
    throw new LutraError(
      'environment',
      `the download needs ${gigabytes(needed)}, but ${hub.cache} has ${gigabytes(bavail * bsize)} free`,
      {
        hint: 'Free some space, or set HF_HUB_CACHE to a folder on another disk.',
      },
    );
  } catch (error) {
    throw fileFailure(error, 'writing', blobs);
  }
}
