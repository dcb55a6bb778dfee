/**
 * Proxies that the environment names, as curl and the hub's own tools take them: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY
 * and NO_PROXY, in small letters too. The fetch of Node 20 knows none of them.
 */
import { type ClientRequest, request } from 'node:http';
import { request as tlsRequest } from 'node:https';
import type { Socket } from 'node:net';
import { urlToHttpOptions } from 'node:url';
import type { Dispatcher } from 'undici';
import { LutraError } from '../../common/errors.ts';
import { systemCode } from '../failure.ts';

/** Environment variables, those of the hub's own tools among them. */
export type HubEnvironment = Readonly<Record<string, string | undefined>>;

/** What the requests of one attempt go through. */
export interface Route {
  readonly fetch: typeof fetch;
  /** Ends what is still open: a proxy that does not answer would hold the process. */
  close(): Promise<void>;
}

/** How the hub is reached. */
export interface Network {
  open(): Route;
  /** The variable that names the proxy for an address, NO_PROXY aside; undefined where none does. */
  proxyVariable(url: string): string | undefined;
}

interface Proxy {
  readonly variable: string;
  readonly url: string;
}

/**
 * The network as the environment describes it; undici, whose fetch can go through proxies, is only loaded where one
 * is named.
 * @throws `usage` for a proxy that is no HTTP proxy
 */
export async function networkOf(env: HubEnvironment): Promise<Network> {
  const http = proxyIn(env, ['http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY']);
  const https = proxyIn(env, ['https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY']) ?? http;
  if (https === undefined) {
    return { open: () => ({ fetch, close: async () => undefined }), proxyVariable: () => undefined };
  }
  const undici = await import('undici');
  return {
    open() {
      const dispatcher = new undici.EnvHttpProxyAgent({
        httpProxy: http?.url ?? '',
        httpsProxy: https.url,
        noProxy: env.no_proxy || env.NO_PROXY || '',
        // Few proxies let a tunnel be made to another port than 443.
        proxyTunnel: false,
        clientFactory: tunnels,
      });
      // The types of undici's Response and of Node's own differ in name only: Node's fetch is undici's.
      const through = (url: URL, init: RequestInit) =>
        undici.fetch(url, { ...(init as object), dispatcher }) as Promise<unknown>;
      return { fetch: through as typeof fetch, close: () => dispatcher.destroy() };
    },
    proxyVariable: (url) => (url.startsWith('https:') ? https : http)?.variable,
  };
}

/**
 * What asks a proxy for tunnels, in the place of undici's own client: where the proxy ends the connection without an
 * answer, that one asks again at once, for ever (7.30).
 */
function tunnels(proxy: URL): Dispatcher {
  const asked = new Set<ClientRequest>();
  const end = async () => {
    for (const open of asked) open.destroy();
  };
  const connect = ({ path, headers }: Dispatcher.ConnectOptions) =>
    new Promise((resolve, reject) => {
      const options = { ...urlToHttpOptions(proxy), auth: undefined, method: 'CONNECT', path, agent: false };
      const open = (proxy.protocol === 'https:' ? tlsRequest : request)({
        ...options,
        headers: headers as Record<string, string>,
      });
      asked.add(open);
      open.once('close', () => asked.delete(open));
      open.once('connect', ({ statusCode }, socket: Socket, head: Uint8Array) => {
        if (head.length > 0) socket.unshift(head);
        resolve({ statusCode, socket });
      });
      open.once('error', reject);
      open.end();
    });
  return { connect, close: end, destroy: end } as unknown as Dispatcher;
}

/** The proxy of the first of these variables that is not empty. Its URL may have a password: it is never printed. */
function proxyIn(env: HubEnvironment, variables: readonly string[]): Proxy | undefined {
  const variable = variables.find((name) => env[name]);
  if (variable === undefined) return undefined;
  const value = env[variable]!.trim();
  const url = /^[a-z][a-z\d+.-]*:\/\//i.test(value) ? value : `http://${value}`;
  if (URL.canParse(url) && /^https?:$/.test(new URL(url).protocol)) return { variable, url };
  throw new LutraError('usage', `${variable} does not name an HTTP proxy`, {
    hint: 'Set it to something like http://host:3128 or http://user:password@host:3128, or unset it.',
  });
}

/** The status with which a proxy refused to connect; undefined for any other failure of a request. */
export function proxyStatus(error: unknown): number | undefined {
  if (!(error instanceof Error) || !systemCode(error)?.startsWith('UND_ERR_')) return undefined;
  const [, status] = /^Proxy .*\((\d{3})\)/.exec(error.message) ?? [];
  return status === undefined ? undefined : Number(status);
}

/** The error for a proxy that answers `status` where it should connect to `host`. */
export function proxyRefusal(variable: string, host: string, status: number): LutraError {
  const without = 'add the host to NO_PROXY if it can be reached without the proxy';
  return new LutraError(
    'network',
    `the proxy that ${variable} names does not connect to ${host} (status ${status})`,
    {
      hint:
        status === 407
          ? `It wants a login: write it into ${variable}, as in http://user:password@host:3128.`
          : `Ask who runs it, or ${without}.`,
    },
  );
}
