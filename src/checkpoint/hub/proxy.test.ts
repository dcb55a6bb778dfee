import { expect, test } from 'vitest';
import { networkOf, proxyRefusal, proxyStatus } from './proxy.ts';

const HTTPS = 'https://hub/x';
const HTTP = 'http://hub/x';

test('knows which variable names the proxy for an address', async () => {
  const variables = async (env: Record<string, string>) => {
    const network = await networkOf(env);
    return [network.proxyVariable(HTTPS), network.proxyVariable(HTTP)];
  };
  expect(await variables({})).toEqual([undefined, undefined]);
  expect(await variables({ HTTPS_PROXY: '', NO_PROXY: 'hub' })).toEqual([undefined, undefined]);
  expect(await variables({ HTTPS_PROXY: 'proxy:3128' })).toEqual(['HTTPS_PROXY', undefined]);
  expect(
    await variables({ HTTPS_PROXY: 'http://a', https_proxy: 'http://b', http_proxy: 'http://c' }),
  ).toEqual(['https_proxy', 'http_proxy']);
  expect(await variables({ HTTP_PROXY: 'http://proxy' })).toEqual(['HTTP_PROXY', 'HTTP_PROXY']);
  expect(await variables({ ALL_PROXY: 'https://user:secret@proxy:1' })).toEqual(['ALL_PROXY', 'ALL_PROXY']);
});

test('refuses what is no HTTP proxy, without its password', async () => {
  for (const value of [
    'socks5://user:secret@proxy:1',
    'http://user:secret@',
    'http://user:secret@proxy:port',
  ]) {
    const error = await networkOf({ ALL_PROXY: value }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'usage', message: 'ALL_PROXY does not name an HTTP proxy' });
    expect(JSON.stringify(error)).not.toContain('secret');
  }
});

test('takes no other failure for that of a proxy', () => {
  const failed = (message: string, code: string) => Object.assign(new Error(message), { code });
  const refused = 'Proxy response (403) !== 200 when HTTP Tunneling';
  expect(proxyStatus(failed(refused, 'UND_ERR_ABORTED'))).toBe(403);
  expect(proxyStatus(failed(refused, 'ECONNRESET'))).toBeUndefined();
  expect(proxyStatus(failed('Response (403)', 'UND_ERR_ABORTED'))).toBeUndefined();
  expect(proxyRefusal('HTTPS_PROXY', 'hub', 403).hint).toMatch(/NO_PROXY/);
});
