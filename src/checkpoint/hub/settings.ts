import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { LutraError } from '../../common/errors.ts';
import { fileFailure, quote, systemCode } from '../failure.ts';
import { type HubEnvironment, type Network, networkOf } from './proxy.ts';

const PUBLIC_HUB = 'https://huggingface.co';

/** When to try again, and when to give up. */
export interface Patience {
  /** Failures in a row, without a byte in between, after which an error is final. */
  readonly attempts: number;
  /** Wait before the first repetition; it doubles with each one. */
  readonly delayMs: number;
  /** A connection that gives nothing for this long is taken for broken. */
  readonly stallMs: number;
}

const PATIENCE: Patience = { attempts: 5, delayMs: 1000, stallMs: 30_000 };

export interface HubSettings {
  /** An origin with an optional path, without a slash at the end. */
  readonly endpoint: string;
  readonly token: string | undefined;
  /** The folder that has `models--organization--name` folders. */
  readonly cache: string;
  readonly offline: boolean;
  readonly patience: Patience;
  readonly network: Network;
}

/**
 * Settings as the hub's own tools take them: `HF_ENDPOINT`; `HF_TOKEN`, or else the file `token` that
 * `hf auth login` leaves in `HF_HOME`; `HF_HUB_CACHE`, or else `hub` in `HF_HOME`; `HF_HUB_OFFLINE`; and the
 * variables that name proxies.
 * @throws `usage` for a malformed endpoint, token or proxy
 */
export async function hubSettings(env: HubEnvironment, patience = PATIENCE): Promise<HubSettings> {
  const home = env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface');
  const token = (env.HF_TOKEN || (await readToken(join(home, 'token'))))?.trim();
  if (token !== undefined && !/^[\x21-\x7e]*$/.test(token)) {
    throw new LutraError('usage', 'the access token has characters that no token has', {
      hint: 'Set HF_TOKEN to a token of the hub: it begins with hf_.',
    });
  }
  return {
    endpoint: endpointOf(env.HF_ENDPOINT || PUBLIC_HUB),
    token: token === '' ? undefined : token,
    cache: env.HF_HUB_CACHE || join(home, 'hub'),
    offline: /^(1|true|yes|on)$/i.test(env.HF_HUB_OFFLINE ?? ''),
    patience,
    network: await networkOf(env),
  };
}

function endpointOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol)) {
    throw new LutraError('usage', `HF_ENDPOINT is ${quote(text)}; expected a URL`, {
      hint: `Set it to something like ${PUBLIC_HUB}, or unset it.`,
    });
  }
  return `${url.origin}${url.pathname}`.replace(/\/+$/, '');
}

async function readToken(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return undefined;
    throw fileFailure(error, 'reading', path);
  }
}
