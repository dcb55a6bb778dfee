import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type ResolveOptions, resolveModel } from '../src/checkpoint/resolve.ts';
import { randomWord } from '../src/common/random.ts';
import { type FakeHub, startHub } from './support/hub-server.ts';
import { type FakeProxy, startProxy } from './support/proxy-server.ts';

const PATIENCE = { attempts: 3, delayMs: 5, stallMs: 3000 };
const WEIGHTS = Uint8Array.from({ length: 300_000 }, (_, i) => randomWord(61, i) & 255);
const REPO = {
  commit: '0123456789abcdef0123456789abcdef01234567',
  files: new Map([
    ['config.json', new TextEncoder().encode('{}')],
    ['tokenizer.json', new TextEncoder().encode('{}')],
    ['model.safetensors', WEIGHTS],
  ]),
  large: new Set(['model.safetensors']),
};

let home: string;
let hub: FakeHub;
let proxy: FakeProxy;

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'lutra-proxy-'));
  proxy = await startProxy();
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await proxy[Symbol.asyncDispose]();
  await hub[Symbol.asyncDispose]();
  await rm(home, { recursive: true });
});

async function open(tls?: Parameters<typeof startHub>[0]): Promise<void> {
  hub = await startHub(tls);
  hub.repos.set('org/model', REPO);
}

function download(env: Record<string, string>, more: Partial<ResolveOptions> = {}): Promise<string> {
  return resolveModel('org/model', {
    env: { HF_ENDPOINT: hub.endpoint, HF_HOME: home, ...env },
    patience: PATIENCE,
    ...more,
  });
}

async function expectComplete(folder: string): Promise<void> {
  expect((await readFile(join(folder, 'model.safetensors'))).equals(WEIGHTS)).toBe(true);
}

/** Expects a failure; gives message and hint as one text, in which no password is. */
async function failure(work: Promise<unknown>, code: string): Promise<string> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ name: 'LutraError', code, hint: expect.any(String) });
  const { message, hint } = error as { message: string; hint: string };
  expect(`${message} ${hint}`).not.toContain('secret');
  return `${message} | ${hint}`;
}

const withLogin = (login: string) => proxy.url.replace('//', `//${login}@`);
const isWeights = ({ server }: { server: string }) => server === 'content';
const ranges = () => hub.log.filter(isWeights).map(({ headers }) => headers.range);

async function partialBytes(): Promise<number> {
  const blobs = join(home, 'hub', 'models--org--model', 'blobs');
  const [partial] = (await readdir(blobs)).filter((name) => name.endsWith('.incomplete'));
  return (await stat(join(blobs, partial!))).size;
}

describe('a plain connection', () => {
  beforeEach(() => open());

  test('is forwarded, to the hub and to the content network, without a tunnel', async () => {
    await expectComplete(await download({ HTTP_PROXY: proxy.url }));
    expect(proxy.log).toHaveLength(hub.log.length);
    expect(proxy.log.every((line) => line.startsWith('GET http://127.0.0.1:'))).toBe(true);
  });

  test('takes a proxy without a scheme, and one for all protocols', async () => {
    await expectComplete(await download({ ALL_PROXY: proxy.url.replace('http://', '') }));
    expect(proxy.log).not.toEqual([]);
  });

  test('goes by no proxy to the hosts of NO_PROXY', async () => {
    await expectComplete(await download({ HTTP_PROXY: proxy.url, NO_PROXY: 'localhost, 127.0.0.1' }));
    expect(proxy.log).toEqual([]);
  });

  test('goes by no proxy to a host and port of no_proxy, but to others of the host', async () => {
    const { host } = new URL(hub.endpoint);
    await expectComplete(await download({ http_proxy: proxy.url, no_proxy: host }));
    expect(proxy.log).toEqual([
      expect.stringMatching(/^GET http:\/\/127\.0\.0\.1:\d+\/\w{64}\?signature=1$/),
    ]);
  });

  test('that breaks is resumed', async () => {
    let breaks = 0;
    hub.mishap = (request) => (isWeights(request) && breaks++ < 1 ? { breakAfter: 100_000 } : undefined);
    await expectComplete(await download({ HTTP_PROXY: proxy.url }));
    expect(ranges()).toEqual([undefined, expect.stringMatching(/^bytes=\d+-$/)]);
  });

  test('to a proxy that wants a login says so at once, or gives it', async () => {
    proxy.login = 'me:secret%';
    const message = await failure(download({ HTTP_PROXY: withLogin('me:secret') }), 'network');
    expect(message).toMatch(
      /proxy that HTTP_PROXY names does not connect to 127.*407.*\| .*user:password@host/,
    );
    expect(proxy.log).toHaveLength(1);
    await expectComplete(await download({ HTTP_PROXY: withLogin('me:secret%25') }));
  });

  test('to a proxy that is not there names it, after some tries', async () => {
    const other = await startProxy();
    await other[Symbol.asyncDispose]();
    const warnings: string[] = [];
    const onWarning = (line: string) => warnings.push(line);
    expect(await failure(download({ HTTP_PROXY: other.url }, { onWarning }), 'network')).toMatch(
      /connection to 127.*ECONNREFUSED.*\| .*proxy that HTTP_PROXY names/,
    );
    expect(warnings).toEqual([expect.stringMatching(/ECONNREFUSED.*; trying again$/)]);
  });

  test('to a proxy that refuses is not needed where the cache has the model', async () => {
    const folder = await download({});
    proxy.refuse = 407;
    const warnings: string[] = [];
    const onWarning = (line: string) => warnings.push(line);
    expect(await download({ HTTP_PROXY: proxy.url }, { onWarning })).toBe(folder);
    expect(warnings).toEqual([expect.stringMatching(/status 407.*using the copy/)]);
  });
});

describe('a proxy asked for a tunnel', () => {
  beforeEach(async () => {
    await open();
  });
  const tunnel = (more: Partial<ResolveOptions> = {}) =>
    download({ HF_ENDPOINT: 'https://hub.invalid', HTTPS_PROXY: withLogin('me:secret') }, more);

  test.each([
    [407, 1, /\(status 407\).*write it into HTTPS_PROXY/],
    [403, 1, /HTTPS_PROXY names does not connect to hub\.invalid \(status 403\).*NO_PROXY/],
    [502, 3, /\(status 502\)/],
    ['close', 3, /connection to hub\.invalid failed.*proxy that HTTPS_PROXY names/],
  ] as const)('that answers %s is asked %d times', async (refuse, times, message) => {
    proxy.refuse = refuse;
    expect(await failure(tunnel(), 'network')).toMatch(message);
    expect(proxy.log).toEqual(Array(times).fill('CONNECT hub.invalid:443'));
  });

  test('and never answers is given up, and left when cancelled', async () => {
    proxy.refuse = 'silence';
    expect(await failure(tunnel({ patience: { attempts: 2, delayMs: 5, stallMs: 200 } }), 'network')).toMatch(
      /nothing came for 0\.2 s/,
    );
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 200);
    await failure(tunnel({ signal: controller.signal }), 'cancelled');
    // A connection that stayed open would keep the process from its end.
    await vi.waitFor(() => expect(proxy.clients.size).toBe(0));
    expect(proxy.log).toHaveLength(3);
  });
});

const tls = certificate();

describe.skipIf(tls === undefined)('a connection by TLS through a tunnel', () => {
  beforeEach(async () => {
    await open(tls);
    // The certificate is its own signer.
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
  });

  test('that breaks or stalls is resumed; the proxy sees only hosts', async () => {
    const mishaps = [{ breakAfter: 100_000 }, { stallAfter: 50_000 }];
    hub.mishap = (request) => (isWeights(request) ? mishaps.shift() : undefined);
    await expectComplete(
      await download({ HTTPS_PROXY: proxy.url }, { patience: { ...PATIENCE, stallMs: 1000 } }),
    );
    expect(ranges()).toEqual([
      undefined,
      expect.stringMatching(/^bytes=\d+-$/),
      expect.stringMatching(/^bytes=\d+-$/),
    ]);
    expect(new Set(proxy.log.map((line) => line.replace(/\d+$/, '')))).toEqual(
      new Set(['CONNECT 127.0.0.1:']),
    );
  });

  test('that is cancelled ends at once and goes on from there', async () => {
    const controller = new AbortController();
    hub.mishap = (request) => (isWeights(request) ? { stallAfter: 150_000 } : undefined);
    hub.onStall = () => controller.abort();
    await failure(download({ HTTPS_PROXY: proxy.url }, { signal: controller.signal }), 'cancelled');
    const kept = await partialBytes();
    expect(kept).toBeGreaterThan(0);
    await vi.waitFor(() => expect(proxy.clients.size).toBe(0));
    hub.mishap = () => undefined;
    await expectComplete(await download({ HTTPS_PROXY: proxy.url }));
    expect(ranges().at(-1)).toBe(`bytes=${kept}-`);
  });

  test('to a certificate of an unknown signer is refused at once, with what to do', async () => {
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '1');
    expect(await failure(download({ HTTPS_PROXY: proxy.url }), 'network')).toMatch(
      /self-signed certificate.*NODE_EXTRA_CA_CERTS/,
    );
    expect(proxy.log).toHaveLength(1);
  });
});

/** A key and a certificate for this computer; undefined where OpenSSL's command is missing. */
function certificate(): { readonly key: string; readonly cert: string } | undefined {
  const words =
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hub -addext subjectAltName=IP:127.0.0.1';
  const args = [...words.split(' '), '-keyout', '-', '-out', '-'];
  const { status, stdout } = spawnSync('openssl', args, { encoding: 'utf8' });
  const [key] = /-----BEGIN PRIVATE KEY-----[\s\S]*?-----END PRIVATE KEY-----/.exec(stdout ?? '') ?? [];
  const [cert] = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/.exec(stdout ?? '') ?? [];
  return status === 0 && key !== undefined && cert !== undefined ? { key, cert } : undefined;
}
