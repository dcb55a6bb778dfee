import { expect, test } from 'vitest';
import { proxyHint } from './proxy.ts';

test('says what a proxy that is not used needs', () => {
  const env = { HTTPS_PROXY: 'http://proxy:3128' };
  expect(proxyHint({}, '20.20.2')).toBeUndefined();
  expect(proxyHint({ HTTPS_PROXY: '' }, '20.20.2')).toBeUndefined();
  expect(proxyHint(env, '20.20.2')).toMatch(/^HTTPS_PROXY .*Node\.js 24 or newer .*20\.20\.2/);
  expect(proxyHint({ http_proxy: 'x' }, '24.1.0')).toMatch(/^http_proxy .*set NODE_USE_ENV_PROXY=1 as well/);
  expect(proxyHint({ ...env, NODE_USE_ENV_PROXY: '1' }, '24.1.0')).toBeUndefined();
  expect(proxyHint({ ...env, NODE_USE_ENV_PROXY: '1' }, '20.20.2')).toContain('Node.js 24');
});
