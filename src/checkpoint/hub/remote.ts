/**
 * A model of the hub as a checkpoint without its download: headers and configuration are read by requests for
 * ranges of bytes, and any tensor could be.
 */
import { LutraError } from '../../common/errors.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { malformed } from '../failure.ts';
import { ggufShards } from '../gguf/choose.ts';
import { openGguf } from '../gguf/open.ts';
import { openCheckpoint, openModelFiles } from '../open.ts';
import { allocate, type ByteSource, decodeText, type ModelFiles } from '../source.ts';
import { cachedModel, repoFolder } from './cache.ts';
import { chosenGguf, type DownloadOptions } from './download.ts';
import { attemptRequest, bodyParts, refusal } from './http.ts';
import { describeFile, fileUrl, isCommit, type Listing, listFiles } from './listing.ts';
import { type Attempt, repeat, unwrap } from './retry.ts';
import type { HubSettings } from './settings.ts';
import type { RepoSpec } from './spec.ts';

export interface RemoteModel {
  readonly checkpoint: Checkpoint;
  /** Bytes of weights that a download has to bring; 0 for a model that is in the cache. */
  readonly downloadBytes: number;
}

/** Texts that say what a model is; tokenizers are long, and of no use without weights. */
const TEXTS: ReadonlySet<string> = new Set(['config.json', 'quantize_config.json', 'generation_config.json']);
const MAX_TEXT_BYTES = 64 * 1024 * 1024;
/** Headers are read from their beginning in steps of at least this. */
const STEP = 256 * 1024;
/** Of a server that ignores ranges, no more is read in vain. */
const MAX_SKIPPED = 32 * 1024 * 1024;

interface Repo {
  readonly hub: HubSettings;
  readonly spec: RepoSpec;
  readonly commit: string;
  readonly signal: AbortSignal;
}

/**
 * Opens a model by reading headers only. One that is completely in the cache is opened there.
 * @throws `not-found`, `network`, `cancelled`, and as `openCheckpoint` does
 */
export async function openRemote(
  hub: HubSettings,
  spec: RepoSpec,
  { signal = new AbortController().signal, onWarning }: Pick<DownloadOptions, 'signal' | 'onWarning'> = {},
): Promise<RemoteModel> {
  const cached = await cachedModel(repoFolder(hub, spec), spec);
  const open = async (path: string) => ({ checkpoint: await openCheckpoint(path), downloadBytes: 0 });
  if (cached !== undefined && (isCommit(spec.revision) || hub.offline)) return open(cached);
  if (hub.offline) {
    throw new LutraError('network', `${spec.repo} is not (completely) in the cache ${hub.cache}`, {
      hint: 'Unset HF_HUB_OFFLINE to look at it on the hub.',
    });
  }
  const listed = await listFiles(hub, spec, hub.patience, signal, onWarning);
  if (!listed.ok) {
    if (cached === undefined) throw listed.failure;
    return open(cached);
  }
  const { commit } = listed.value;
  if (cached?.includes(commit)) return open(cached);
  const files = new RemoteFiles({ hub, spec, commit, signal }, listed.value);
  const gguf = chosenGguf(spec, listed.value);
  const checkpoint =
    gguf === undefined
      ? await openModelFiles(files)
      : await openGguf(`${files.path}/${gguf}`, ggufShards(gguf), (name) => files.open(name));
  return { checkpoint, downloadBytes: files.openedBytes };
}

class RemoteFiles implements ModelFiles {
  readonly path: string;
  readonly #repo: Repo;
  readonly #listing: Listing;
  /** Sizes of the files that were opened: all that have weights. */
  openedBytes = 0;

  constructor(repo: Repo, listing: Listing) {
    const { repo: name, revision } = repo.spec;
    this.path = `hf:${name}${revision === 'main' ? '' : `@${revision}`}`;
    this.#repo = repo;
    this.#listing = listing;
  }

  async names(): Promise<readonly string[]> {
    return [...this.#listing.files.keys()];
  }

  async text(name: string): Promise<string | undefined> {
    if (!this.#listing.files.has(name) || !(TEXTS.has(name) || name.endsWith('.index.json')))
      return undefined;
    const { size } = await this.#describe(name);
    const path = `${this.path}/${name}`;
    if (size > MAX_TEXT_BYTES) throw malformed(path, `it has ${size} bytes`, `at most ${MAX_TEXT_BYTES}`);
    return decodeText(await fetchRange(this.#repo, name, 0, size), path);
  }

  async open(name: string): Promise<ByteSource> {
    if (!this.#listing.files.has(name)) {
      throw new LutraError('not-found', `${this.path}/${name} is missing, which belongs to the model`, {
        hint: 'The upload may be incomplete: try again later, or another revision.',
      });
    }
    const { size } = await this.#describe(name);
    this.openedBytes += size;
    return remoteSource(this.#repo, name, size, `${this.path}/${name}`);
  }

  async #describe(name: string): Promise<{ readonly size: number }> {
    const { hub, spec, commit, signal } = this.#repo;
    return this.#listing.files.get(name) ?? describeFile(hub, spec, commit, name, signal);
  }
}

/** A file on the hub; what was read from its beginning is kept, as headers are read piece by piece. */
function remoteSource(repo: Repo, name: string, size: number, path: string): ByteSource {
  let start = new Uint8Array(0);
  return {
    path,
    size,
    async read(position, length) {
      const end = position + length;
      if (end > size) throw malformed(path, `it ends at byte ${size}`, `at least ${end} bytes`);
      if (end <= start.length) return start.slice(position, end);
      if (position > start.length) return fetchRange(repo, name, position, length);
      const more = Math.min(Math.max(end, start.length + STEP), size) - start.length;
      const joined = allocate(start.length + more, path);
      joined.set(start);
      joined.set(await fetchRange(repo, name, start.length, more), start.length);
      start = joined as Uint8Array<ArrayBuffer>;
      return start.slice(position, end);
    },
    async close() {
      start = new Uint8Array(0);
    },
  };
}

/** Exactly these bytes of a file; a server that ignores ranges is read from the beginning, if that is not far. */
async function fetchRange(
  { hub, spec, commit, signal }: Repo,
  name: string,
  position: number,
  length: number,
): Promise<Uint8Array> {
  if (length === 0) return new Uint8Array(0);
  const url = fileUrl(hub, spec, commit, name);
  const headers = { range: `bytes=${position}-${position + length - 1}` };
  const attempt = await repeat(hub.patience, signal, () =>
    attemptRequest(
      hub,
      { method: 'GET', url, headers },
      signal,
      async (response, watchdog): Promise<Attempt<Uint8Array>> => {
        if (!response.ok) return refusal(hub, spec, response, name);
        const [, from] = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '') ?? [];
        const begin = response.status === 206 ? Number(from) : 0;
        const skip = position - begin;
        if (!(skip >= 0 && skip <= MAX_SKIPPED)) {
          throw new LutraError('network', `the server does not send the part of ${name} that was asked for`, {
            hint: 'Check HF_ENDPOINT: a mirror must know ranges. Or download the model: lutra compile does it.',
          });
        }
        const bytes = allocate(length, name);
        let at = -skip;
        for await (const part of bodyParts(response, watchdog)) {
          const useful = at < 0 ? part.subarray(Math.min(part.length, -at)) : part;
          bytes.set(
            useful.subarray(0, Math.max(0, length - Math.max(at, 0))),
            Math.min(Math.max(at, 0), length),
          );
          at += part.length;
          if (at >= length) return { ok: true, value: bytes };
        }
        return {
          ok: false,
          failure: new LutraError('network', `${name} ended before the part that was asked for`, {
            hint: 'Try again.',
          }),
        };
      },
    ),
  );
  return unwrap(attempt);
}
