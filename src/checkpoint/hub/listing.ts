/** What a model on the hub consists of. */
import { LutraError } from '../../common/errors.ts';
import { malformed, quote } from '../failure.ts';
import { isObject, parseObject } from '../json.ts';
import { attemptRequest, bodyParts, refusal } from './http.ts';
import { type Attempt, repeat, unwrap } from './retry.ts';
import type { HubSettings, Patience } from './settings.ts';
import type { RepoSpec } from './spec.ts';

/** A file of a model; its etag names it in the cache and is the hash of its content. */
export interface RemoteFile {
  readonly path: string;
  /** In bytes. */
  readonly size: number;
  /** 64 hexadecimal digits: SHA-256 (large files). 40: SHA-1 of git's blob of it. */
  readonly etag: string;
}

export interface Listing {
  readonly commit: string;
  /** By path; undefined where the hub's answer does not say enough. */
  readonly files: ReadonlyMap<string, RemoteFile | undefined>;
}

const COMMIT = /^[0-9a-f]{40}$/;
const ETAG = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/;
const MAX_LISTING_BYTES = 64 * 1024 * 1024;

export function isCommit(revision: string): boolean {
  return COMMIT.test(revision);
}

/** The address of a file. */
export function fileUrl(hub: HubSettings, spec: RepoSpec, commit: string, path: string): string {
  return `${hub.endpoint}/${spec.repo}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`;
}

/**
 * Lists the files of a revision. An unreachable hub gives a failed attempt, so that the caller can fall back
 * to the cache; what no repetition would change (no such model, no access) is thrown.
 */
export function listFiles(
  hub: HubSettings,
  spec: RepoSpec,
  patience: Patience,
  signal: AbortSignal,
  onWarning?: (message: string) => void,
): Promise<Attempt<Listing>> {
  const revision = encodeURIComponent(spec.revision);
  const url = `${hub.endpoint}/api/models/${spec.repo}/revision/${revision}?blobs=true`;
  const attempt = () =>
    attemptRequest<Listing>(hub, { method: 'GET', url }, signal, async (response, watchdog) => {
      if (!response.ok) return refusal(hub, spec, response);
      const chunks: Uint8Array[] = [];
      let bytes = 0;
      for await (const chunk of bodyParts(response, watchdog)) {
        bytes += chunk.length;
        if (bytes > MAX_LISTING_BYTES)
          throw malformed(url, 'the answer is too long', `${MAX_LISTING_BYTES} bytes at most`);
        chunks.push(chunk);
      }
      return { ok: true, value: parseListing(Buffer.concat(chunks).toString('utf8'), url) };
    });
  return repeat(patience, signal, attempt, ({ message }) => onWarning?.(`${message}; trying again`));
}

/** Reads the answer to a listing request; `invalid` when it is malformed. */
export function parseListing(text: string, url: string): Listing {
  const notHub = 'Check that HF_ENDPOINT is a hub.';
  const { sha, siblings } = parseObject(text, url);
  if (typeof sha !== 'string' || !isCommit(sha))
    throw malformed(url, 'it has no commit "sha"', '40 hexadecimal digits', notHub);
  if (!Array.isArray(siblings)) throw malformed(url, 'it has no list "siblings"', 'a list of files', notHub);
  const files = new Map<string, RemoteFile | undefined>();
  for (const sibling of siblings) {
    if (!isObject(sibling) || typeof sibling.rfilename !== 'string') {
      throw malformed(url, 'a file in "siblings" has no name', '{"rfilename": ...}', notHub);
    }
    files.set(sibling.rfilename, remoteFile(sibling.rfilename, sibling));
  }
  return { commit: sha, files };
}

function remoteFile(path: string, sibling: Record<string, unknown>): RemoteFile | undefined {
  const { lfs, size, blobId } = sibling;
  const etag = isObject(lfs) ? lfs.sha256 : blobId;
  const bytes = isObject(lfs) ? (lfs.size ?? size) : size;
  return isEtag(etag) && isSize(bytes) ? { path, size: bytes, etag } : undefined;
}

/**
 * Asks for the size and hash of one file, for hubs that do not put them into listings.
 * @throws `network`, `not-found`, or `invalid` when the hub does not say
 */
export async function describeFile(
  hub: HubSettings,
  spec: RepoSpec,
  commit: string,
  path: string,
  signal: AbortSignal,
): Promise<RemoteFile> {
  const url = fileUrl(hub, spec, commit, path);
  const attempt = await repeat(hub.patience, signal, () =>
    attemptRequest(hub, { method: 'HEAD', url }, signal, async (response): Promise<Attempt<RemoteFile>> => {
      if (response.status >= 400) return refusal(hub, spec, response, path);
      const { headers } = response;
      const etag = unquoteEtag(headers.get('x-linked-etag') ?? headers.get('etag') ?? '');
      const size = Number(headers.get('x-linked-size') ?? headers.get('content-length') ?? Number.NaN);
      if (!isEtag(etag) || !isSize(size)) {
        throw new LutraError('invalid', `the hub gives no hash or size for ${path} (etag ${quote(etag)})`, {
          hint: 'Check HF_ENDPOINT: a mirror must pass the headers X-Linked-Etag and X-Linked-Size.',
        });
      }
      return { ok: true, value: { path, size, etag } };
    }),
  );
  return unwrap(attempt);
}

/** `"abc"` and the weak `W/"abc"` alike name abc. */
export function unquoteEtag(header: string): string {
  return header.replace(/^W\//, '').replace(/^"(.*)"$/, '$1');
}

function isEtag(etag: unknown): etag is string {
  return typeof etag === 'string' && ETAG.test(etag);
}

function isSize(size: unknown): size is number {
  return Number.isSafeInteger(size) && (size as number) >= 0;
}
