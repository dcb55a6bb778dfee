/**
 * HTTP as the hub needs it. Redirects are followed here rather than by fetch, since a large file is
 * redirected to another host, which must not see the token, and what is known about the file is in the
 * headers of the redirect.
 */
import { LutraError } from '../../common/errors.ts';
import { quote, systemCode } from '../failure.ts';
import { proxyRefusal, proxyStatus, type Route } from './proxy.ts';
import { type Attempt, cancelled, type FailedAttempt, retryAfterMs } from './retry.ts';
import type { HubSettings } from './settings.ts';
import type { RepoSpec } from './spec.ts';

const MAX_REDIRECTS = 10;
/** What OpenSSL says of a certificate whose signer is not known here. */
const UNTRUSTED: ReadonlySet<string> = new Set([
  'SELF_SIGNED_CERT_IN_CHAIN',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
]);

export interface HubRequest {
  /** `HEAD` stops at a redirect to another host, whose headers are those of interest. */
  readonly method: 'GET' | 'HEAD';
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Ends a request that has given nothing for a while. */
export interface Watchdog {
  readonly signal: AbortSignal;
  /** To be called whenever something arrives. */
  alive(): void;
}

/**
 * One try of a request and whatever reads its answer.
 * @param use checks the status and reads the body by `bodyParts`; may throw LutraErrors, which are final
 */
export async function attemptRequest<T>(
  hub: HubSettings,
  request: HubRequest,
  signal: AbortSignal,
  use: (response: Response, watchdog: Watchdog) => Promise<Attempt<T>>,
): Promise<Attempt<T>> {
  const stalled = new AbortController();
  const { stallMs } = hub.patience;
  const timer = setTimeout(() => stalled.abort(), stallMs);
  const watchdog = { signal: AbortSignal.any([signal, stalled.signal]), alive: () => timer.refresh() };
  const host = new URL(request.url).host;
  const route = hub.network.open();
  try {
    const response = await send(hub, route, request, watchdog);
    try {
      if (/^text\/html\b/.test(response.headers.get('content-type') ?? '') && response.ok) {
        throw new LutraError('network', `${host} answers with a web page`, {
          hint: 'Open a browser: perhaps this network asks for a login first. Otherwise check HF_ENDPOINT.',
        });
      }
      return await use(response, watchdog);
    } finally {
      // A body that was not read to its end would keep the connection.
      await response.body?.cancel().catch(() => undefined);
    }
  } catch (error) {
    if (signal.aborted) throw cancelled(signal);
    if (error instanceof LutraError) throw error;
    if (stalled.signal.aborted)
      return unreachable(hub, request, `nothing came for ${stallMs / 1000} s`, error);
    return failedConnection(hub, request, error);
  } finally {
    clearTimeout(timer);
    await route.close();
  }
}

/** What it means that fetch gave no answer. */
function failedConnection(hub: HubSettings, request: HubRequest, error: unknown): FailedAttempt {
  // fetch says only "fetch failed"; the reason is in the cause.
  let cause = error;
  while (cause instanceof Error && cause.cause instanceof Error) cause = cause.cause;
  const status = proxyStatus(cause);
  const variable = hub.network.proxyVariable(request.url);
  if (status !== undefined && variable !== undefined) {
    const failure = proxyRefusal(variable, new URL(request.url).host, status);
    return { ok: false, failure, final: status < 500 };
  }
  const code = systemCode(cause);
  const message = cause instanceof Error && cause.message !== '' ? cause.message : String(cause);
  const reason = code === undefined || message.includes(code) ? message : `${message} (${code})`;
  return unreachable(hub, request, reason, error, code !== undefined && UNTRUSTED.has(code));
}

function unreachable(
  hub: HubSettings,
  request: HubRequest,
  reason: string,
  cause: unknown,
  untrusted = false,
): FailedAttempt {
  const variable = hub.network.proxyVariable(request.url);
  const what =
    variable === undefined ? '(and HF_ENDPOINT, if it is set)' : `and the proxy that ${variable} names`;
  const hint = untrusted
    ? 'Where a proxy opens connections, set NODE_EXTRA_CA_CERTS to a file (PEM) with the certificate that it signs by.'
    : `Check the network ${what}, then try again: what has arrived is kept.`;
  const message = `the connection to ${new URL(request.url).host} failed: ${reason}`;
  return { ok: false, failure: new LutraError('network', message, { hint, cause }), final: untrusted };
}

/**
 * The parts of a body as they come.
 *
 * Each read is held against the watchdog here, too: where that barks while nobody reads, fetch may leave
 * the next read without an answer for ever (undici of Node 20).
 */
export async function* bodyParts(
  response: Response,
  { signal, alive }: Watchdog,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (response.body === null) return;
  let end!: () => void;
  const ended = new Promise<never>((_, reject) => {
    end = () => reject(signal.reason);
  });
  ended.catch(() => undefined);
  signal.addEventListener('abort', end);
  const reader = response.body.getReader();
  try {
    signal.throwIfAborted();
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), ended]);
      if (done) return;
      alive();
      yield value;
    }
  } finally {
    signal.removeEventListener('abort', end);
    reader.releaseLock();
  }
}

async function send(
  hub: HubSettings,
  route: Route,
  request: HubRequest,
  watchdog: Watchdog,
): Promise<Response> {
  const hubOrigin = new URL(hub.endpoint).origin;
  let url = new URL(request.url);
  for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
    const response = await route.fetch(url, {
      method: request.method,
      redirect: 'manual',
      signal: watchdog.signal,
      headers: {
        'user-agent': 'lutra',
        // Ranges and sizes are those of the file, not of a compressed form of it.
        'accept-encoding': 'identity',
        ...request.headers,
        ...(hub.token !== undefined && url.origin === hubOrigin && { authorization: `Bearer ${hub.token}` }),
      },
    });
    watchdog.alive();
    const location = response.headers.get('location');
    if (response.status < 300 || response.status > 399 || location === null) return response;
    const next = new URL(location, url);
    if (request.method === 'HEAD' && next.origin !== hubOrigin) return response;
    await response.body?.cancel();
    url = next;
  }
  throw new LutraError('network', `${new URL(request.url).host} redirects in circles`, {
    hint: 'Check HF_ENDPOINT.',
  });
}

/**
 * What a status other than success means for a request about a model: a failure worth repeating, or an
 * error, which is thrown.
 */
export function refusal(hub: HubSettings, spec: RepoSpec, response: Response, file?: string): FailedAttempt {
  const { status, headers } = response;
  if (status === 408 || status === 429 || status >= 500) {
    const waitMs = retryAfterMs(headers.get('retry-after'), Date.now());
    const why = status === 429 ? 'asks to slow down' : 'is out of order';
    return {
      ok: false,
      failure: new LutraError('network', `the hub ${why} (status ${status})`, { hint: 'Try again later.' }),
      ...(waitMs !== undefined && { waitMs }),
    };
  }
  throw finalError(hub, spec, status, headers.get('x-error-code'), file);
}

function finalError(
  hub: HubSettings,
  spec: RepoSpec,
  status: number,
  code: string | null,
  file?: string,
): LutraError {
  const { repo, revision } = spec;
  const page = `${hub.endpoint}/${repo}`;
  if (code === 'GatedRepo') {
    const account =
      hub.token === undefined
        ? 'then set HF_TOKEN to a token of that account'
        : 'with the account of HF_TOKEN';
    return new LutraError('network', `the model ${repo} is gated: its terms must be accepted first`, {
      hint: `Accept them at ${page}, ${account}.`,
    });
  }
  if (code === 'RevisionNotFound') {
    return new LutraError('not-found', `the model ${repo} has no revision ${quote(revision)}`, {
      hint: `Its branches and tags are listed at ${page}.`,
    });
  }
  if (code === 'EntryNotFound' && file !== undefined) {
    return new LutraError('not-found', `the model ${repo} has no file ${file}`, { hint: `See ${page}.` });
  }
  // Without access, the hub does not say whether a private model exists.
  if (status === 404 || (status === 401 && hub.token === undefined)) {
    const access =
      hub.token === undefined
        ? 'If it is private, set HF_TOKEN.'
        : 'If it is private, HF_TOKEN has no access to it.';
    return new LutraError('not-found', `the hub at ${hub.endpoint} has no model ${repo}`, {
      hint: `Check the name, and that there is no mistake in a local path. ${access}`,
    });
  }
  if (status === 401 || status === 403) {
    return new LutraError('network', `the hub refuses access to ${repo} (status ${status})`, {
      hint: 'Check that HF_TOKEN is valid and may read this model.',
    });
  }
  return new LutraError('network', `the hub answered ${repo} with the status ${status}`, {
    hint: 'Check HF_ENDPOINT.',
  });
}
