import type { HubEnvironment } from './settings.ts';

const VARIABLES = ['HTTPS_PROXY', 'https_proxy', 'HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy'];

/**
 * What to do where the environment names a proxy that this Node does not use; undefined where it names none, or Node
 * was told to use it.
 */
export function proxyHint(env: HubEnvironment, nodeVersion: string): string | undefined {
  const variable = VARIABLES.find((name) => env[name]);
  if (variable === undefined) return undefined;
  const canUse = Number(nodeVersion.split('.')[0]) >= 24;
  if (canUse && env.NODE_USE_ENV_PROXY === '1') return undefined;
  const how = canUse
    ? 'set NODE_USE_ENV_PROXY=1 as well'
    : `take Node.js 24 or newer (this is ${nodeVersion}) and set NODE_USE_ENV_PROXY=1`;
  return `${variable} names a proxy, which Node.js does not use by itself: ${how}, or download the model by other means and give its folder.`;
}
