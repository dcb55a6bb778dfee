import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ggufFile, value } from '../src/checkpoint/gguf/testing.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { openUnfetched, type ResolveOptions, resolveModel } from '../src/checkpoint/resolve.ts';
import { writeSafetensors } from '../src/checkpoint/write.ts';
import { randomWord } from '../src/common/random.ts';
import { etagOf, type FakeHub, gitBlob, type HubRepo, sha256, startHub } from './support/hub-server.ts';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const NEWER = '89abcdef0123456789abcdef0123456789abcdef';
const PATIENCE = { attempts: 4, delayMs: 5, stallMs: 3000 };
/** Bytes of the tensor in the single file, and of each of the two shards. */
const TENSOR_BYTES = 300_000;

const text = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

let hub: FakeHub;
let home: string;

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'lutra-hub-'));
  hub = await startHub();
  hub.repos.set('org/model', await makeRepo());
});
afterEach(async () => {
  await hub[Symbol.asyncDispose]();
  await rm(home, { recursive: true });
});

/** A model with one weights file, or two. */
async function makeRepo(shards: 1 | 2 = 1, seed = 0): Promise<HubRepo> {
  const folder = await mkdtemp(join(home, 'made-'));
  const tensors = ['a', 'b'].slice(0, shards).map((name, at) => ({
    name,
    dtype: 'u8' as const,
    shape: [TENSOR_BYTES],
    chunks: () => [Uint8Array.from({ length: TENSOR_BYTES }, (_, i) => randomWord(seed + at, i) & 255)],
  }));
  await writeSafetensors(folder, tensors, { maxShardBytes: TENSOR_BYTES });
  const files = new Map<string, Uint8Array>([
    ['README.md', text('read me')],
    ['config.json', text({ model_type: 'bitnet', seed })],
    ['tokenizer.json', text({ seed })],
    ['tokenizer_config.json', text({})],
    ['original/model.safetensors', text('not needed')],
    ['model.gguf', text('not needed')],
  ]);
  const large = new Set<string>(['tokenizer.json']);
  for (const name of await readdir(folder)) {
    files.set(name, new Uint8Array(await readFile(join(folder, name))));
    if (name.endsWith('.safetensors')) large.add(name);
  }
  return { commit: COMMIT, files, large };
}

function options(more: Partial<ResolveOptions> = {}): ResolveOptions {
  return { env: { HF_ENDPOINT: hub.endpoint, HF_HOME: home }, patience: PATIENCE, ...more };
}

const modelFolder = () => join(home, 'hub', 'models--org--model');
const blobs = () => join(modelFolder(), 'blobs');
const weightsEtag = () => etagOf(hub.repos.get('org/model')!, 'model.safetensors');
const weights = () => hub.repos.get('org/model')!.files.get('model.safetensors')!;
const requestsFor = (part: string) => hub.log.filter(({ path }) => path.includes(part));
const contentRequests = (etag = weightsEtag()) => requestsFor(`/${etag}?`);
const isWeights = ({ path }: { path: string }) => path.includes(`/${weightsEtag()}?`);

/** Expects a failure; gives message and hint as one text. */
async function failure(work: Promise<unknown>, code: string): Promise<string> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ name: 'LutraError', code, hint: expect.any(String) });
  const { message, hint } = error as { message: string; hint: string };
  expect(`${message} ${hint}`).not.toContain(hub.token);
  return `${message} | ${hint}`;
}

async function expectComplete(folder: string): Promise<void> {
  const repo = hub.repos.get('org/model')!;
  for (const name of await readdir(folder)) {
    expect((await readFile(join(folder, name))).equals(repo.files.get(name)!)).toBe(true);
  }
  await (await openCheckpoint(folder)).close();
}

async function leftovers(): Promise<string[]> {
  return (await readdir(blobs())).filter((name) => !/^[0-9a-f]+$/.test(name));
}

describe('a download', () => {
  test('has the files that are needed, in the layout of the cache', async () => {
    const folder = await resolveModel('hf:org/model', options());
    expect(folder).toBe(join(modelFolder(), 'snapshots', COMMIT));
    expect((await readdir(folder)).sort()).toEqual([
      'config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    await expectComplete(folder);
    const repo = hub.repos.get('org/model')!;
    expect(await readlink(join(folder, 'model.safetensors'))).toBe(`../../blobs/${sha256(weights())}`);
    expect(await readlink(join(folder, 'config.json'))).toBe(
      `../../blobs/${gitBlob(repo.files.get('config.json')!)}`,
    );
    expect(await readFile(join(modelFolder(), 'refs', 'main'), 'utf8')).toBe(COMMIT);
    expect(await leftovers()).toEqual([]);
  });

  test('follows the index of a sharded model', async () => {
    hub.repos.set('org/model', await makeRepo(2));
    const folder = await resolveModel('org/model', options());
    expect((await readdir(folder)).filter((name) => name.includes('safetensors'))).toHaveLength(3);
    await expectComplete(folder);
  });

  test('happens once; later only what changed', async () => {
    await resolveModel('org/model', options());
    hub.log.length = 0;
    await resolveModel('org/model', options());
    expect(hub.log.map(({ path }) => path)).toEqual(['/api/models/org/model/revision/main?blobs=true']);
    const repo = hub.repos.get('org/model')!;
    const files = new Map(repo.files).set('config.json', text({ model_type: 'bitnet', changed: true }));
    hub.repos.set('org/model', { ...repo, commit: NEWER, files });
    hub.log.length = 0;
    const folder = await resolveModel('org/model', options());
    expect(folder).toBe(join(modelFolder(), 'snapshots', NEWER));
    await expectComplete(folder);
    expect(hub.log).toHaveLength(2);
    expect(await readFile(join(modelFolder(), 'refs', 'main'), 'utf8')).toBe(NEWER);
    expect(await readdir(join(modelFolder(), 'snapshots'))).toHaveLength(2);
  });

  test('uses what another tool has downloaded', async () => {
    const snapshot = join(modelFolder(), 'snapshots', COMMIT);
    await mkdir(snapshot, { recursive: true });
    await mkdir(blobs());
    await writeFile(join(blobs(), weightsEtag()), weights());
    await symlink(`../../blobs/${weightsEtag()}`, join(snapshot, 'model.safetensors'));
    await expectComplete(await resolveModel('org/model', options()));
    expect(contentRequests()).toEqual([]);
  });

  test('replaces a cached file of the wrong size', async () => {
    await mkdir(blobs(), { recursive: true });
    await writeFile(join(blobs(), weightsEtag()), weights().subarray(0, 1000));
    await expectComplete(await resolveModel('org/model', options()));
  });

  test('reports bytes over all files', async () => {
    const seen: [number, number][] = [];
    await resolveModel('org/model', options({ onProgress: (done, total) => seen.push([done, total]) }));
    const repo = hub.repos.get('org/model')!;
    const needed = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'];
    const total = needed.reduce((sum, name) => sum + repo.files.get(name)!.length, 0);
    expect(seen.at(-1)).toEqual([total, total]);
    expect(seen.every(([done, of], i) => of === total && done >= (seen[i - 1]?.[0] ?? 0))).toBe(true);
  });

  test('takes HF_HUB_CACHE for the cache', async () => {
    const env = {
      HF_ENDPOINT: `${hub.endpoint}/`,
      HF_HOME: join(home, 'x'),
      HF_HUB_CACHE: join(home, 'cache'),
    };
    const folder = await resolveModel('org/model', options({ env }));
    expect(folder).toBe(join(home, 'cache', 'models--org--model', 'snapshots', COMMIT));
  });

  test('asks for hashes and sizes file by file where listings have none', async () => {
    hub.plainListings = true;
    await expectComplete(await resolveModel('org/model', options()));
    expect((await readdir(blobs())).sort()).toContain(weightsEtag());
    expect(hub.log.filter(({ method }) => method === 'HEAD')).toHaveLength(4);
  });
});

describe('the name', () => {
  test('of an existing path wins', async () => {
    await mkdir(join(home, 'org', 'model'), { recursive: true });
    const before = process.cwd();
    expect(await resolveModel(join(home, 'org/model'), options())).toBe(join(home, 'org/model'));
    expect(process.cwd()).toBe(before);
    expect(hub.log).toEqual([]);
  });

  test('may have a revision: branch, pull request, commit', async () => {
    await resolveModel('hf:org/model@refs/pr/1', options());
    expect(await readFile(join(modelFolder(), 'refs/refs/pr/1'), 'utf8')).toBe(COMMIT);
    hub.log.length = 0;
    // A commit that is here needs no network.
    expect(await resolveModel(`hf:org/model@${COMMIT}`, options())).toBe(
      join(modelFolder(), 'snapshots', COMMIT),
    );
    expect(hub.log).toEqual([]);
    expect(await failure(resolveModel('org/model@v9', options()), 'not-found')).toMatch(/no revision "v9"/);
  });

  test.each([
    ['no such folder', 'not-found', /no folder or file "no such folder".*hf:organization\/name/],
    ['./org/model', 'not-found', /no folder/],
    ['../no-such-model', 'not-found', /no folder/],
    ['/a/b', 'not-found', /no folder/],
    ['a/b/c', 'not-found', /no folder/],
    ['hf:a/b/c', 'usage', /not the name of a model/],
    ['hf:../b', 'usage', /not the name of a model/],
    ['hf:a/..', 'usage', /not the name of a model/],
    ['hf:', 'usage', /not the name of a model/],
    ['hf:a/b@', 'usage', /not a revision/],
    ['hf:a/b@../../x', 'usage', /not a revision/],
    ['hf:a/b@x//y', 'usage', /not a revision/],
    ['hf:a/b@x?y=1', 'usage', /not a revision/],
  ])('%j is refused', async (spec, code, message) => {
    expect(await failure(resolveModel(spec, options()), code)).toMatch(message);
    expect(hub.log).toEqual([]);
  });
});

describe('access', () => {
  const withToken = () =>
    options({ env: { HF_ENDPOINT: hub.endpoint, HF_HOME: home, HF_TOKEN: ` ${hub.token}\n` } });

  test('with a token, which only the hub sees', async () => {
    hub.repos.set('org/model', { ...(await makeRepo()), access: 'private' });
    await expectComplete(await resolveModel('org/model', withToken()));
    const toHub = hub.log.filter(({ server }) => server === 'hub');
    const toContent = hub.log.filter(({ server }) => server === 'content');
    expect(toContent.length).toBeGreaterThan(1);
    expect(toHub.map(({ headers }) => headers.authorization)).toEqual(toHub.map(() => `Bearer ${hub.token}`));
    expect(toContent.map(({ headers }) => headers.authorization)).toEqual(toContent.map(() => undefined));
  });

  test('with the token that the login of the hub left', async () => {
    hub.repos.set('org/model', { ...(await makeRepo()), access: 'gated' });
    await writeFile(join(home, 'token'), hub.token);
    await expectComplete(await resolveModel('org/model', options()));
  });

  test('to a gated model without a token', async () => {
    hub.repos.set('org/model', { ...(await makeRepo()), access: 'gated' });
    expect(await failure(resolveModel('org/model', options()), 'network')).toMatch(
      /org\/model is gated.*Accept them at http.*org\/model, then set HF_TOKEN/,
    );
  });

  test('to a private or missing model', async () => {
    hub.repos.set('org/model', { ...(await makeRepo()), access: 'private' });
    expect(await failure(resolveModel('org/model', options()), 'not-found')).toMatch(
      /no model org\/model.*set HF_TOKEN/,
    );
    expect(await failure(resolveModel('org/none', withToken()), 'not-found')).toMatch(
      /no model org\/none.*no access/,
    );
    expect(hub.log).toHaveLength(2);
  });

  test('with a token that is refused', async () => {
    hub.mishap = () => ({ status: 403 });
    expect(await failure(resolveModel('org/model', withToken()), 'network')).toMatch(
      /status 403.*HF_TOKEN is valid/,
    );
    const env = { HF_ENDPOINT: hub.endpoint, HF_HOME: home, HF_TOKEN: 'hf_a\nb' };
    expect(await failure(resolveModel('org/model', options({ env })), 'usage')).toMatch(/access token/);
  });
});

describe('a model is refused', () => {
  async function refuse(files: Record<string, unknown>, code: string): Promise<string> {
    const content = new Map(Object.entries(files).map(([name, value]) => [name, text(value)]));
    hub.repos.set('org/model', { commit: COMMIT, files: content, large: new Set() });
    const message = await failure(resolveModel('org/model', options()), code);
    expect(message).toContain('org/model');
    return message;
  }

  test('that has only weights of another format', async () => {
    expect(await refuse({ 'config.json': {}, 'm.bin': '' }, 'unsupported')).toMatch(/"m\.bin"/);
    expect(await refuse({ 'config.json': {}, 'pytorch_model.bin': '' }, 'unsupported')).toMatch(
      /"pytorch_model\.bin"/,
    );
    expect(await refuse({ 'config.json': {} }, 'not-found')).toMatch(/no weights/);
  });

  test('that lacks config.json or a shard, or whose index names files elsewhere', async () => {
    expect(await refuse({ 'model.safetensors': '' }, 'not-found')).toMatch(/no config\.json/);
    const index = (file: string) => ({
      'config.json': {},
      'model.safetensors.index.json': { weight_map: { a: file } },
    });
    expect(await refuse(index('x.safetensors'), 'not-found')).toMatch(/no x\.safetensors/);
    expect(await refuse(index('../x.safetensors'), 'invalid')).toMatch(/plain name/);
  });
});

describe('a broken connection', () => {
  test('is resumed where it broke', async () => {
    let breaks = 0;
    hub.mishap = (request) => (isWeights(request) && breaks++ < 2 ? { breakAfter: 100_000 } : undefined);
    await expectComplete(await resolveModel('org/model', options()));
    const ranges = contentRequests().map(({ headers }) => headers.range);
    expect(ranges).toHaveLength(3);
    expect(ranges[0]).toBeUndefined();
    expect(ranges.slice(1)).toEqual([
      expect.stringMatching(/^bytes=\d+-$/),
      expect.stringMatching(/^bytes=\d+-$/),
    ]);
    expect(await leftovers()).toEqual([]);
  });

  test('that also seems complete is resumed', async () => {
    let ends = 0;
    hub.mishap = (request) => (isWeights(request) && ends++ < 1 ? { endAfter: 100_000 } : undefined);
    await expectComplete(await resolveModel('org/model', options()));
    expect(contentRequests().map(({ headers }) => headers.range)).toEqual([undefined, 'bytes=100000-']);
  });

  test('that stalls is given up and resumed', async () => {
    let stalls = 0;
    hub.mishap = (request) => (isWeights(request) && stalls++ < 1 ? { stallAfter: 100_000 } : undefined);
    const folder = await resolveModel('org/model', options({ patience: { ...PATIENCE, stallMs: 500 } }));
    await expectComplete(folder);
    expect(contentRequests()[1]?.headers.range).toBe('bytes=100000-');
  });

  test('is not what a slow one is taken for', async () => {
    hub.mishap = (request) => (isWeights(request) ? { slowly: 150 } : undefined);
    await expectComplete(
      await resolveModel('org/model', options({ patience: { ...PATIENCE, stallMs: 1200 } })),
    );
    expect(contentRequests()).toHaveLength(1);
  });

  test('that stays broken ends with an error; the next call goes on from there', async () => {
    let first = true;
    hub.mishap = (request) => {
      if (!isWeights(request)) return undefined;
      const mishap = first ? { endAfter: 200_000 } : { endAfter: 0 };
      first = false;
      return mishap;
    };
    expect(await failure(resolveModel('org/model', options()), 'network')).toMatch(
      /ended after 200000 of 3\d+ bytes/,
    );
    expect(contentRequests()).toHaveLength(PATIENCE.attempts);
    expect(await leftovers()).toHaveLength(1);
    expect(await readdir(modelFolder())).not.toContain('snapshots');
    hub.mishap = () => undefined;
    hub.log.length = 0;
    const seen: number[] = [];
    await expectComplete(await resolveModel('org/model', options({ onProgress: (done) => seen.push(done) })));
    expect(contentRequests().map(({ headers }) => headers.range)).toEqual(['bytes=200000-']);
    expect(await leftovers()).toEqual([]);
  });

  test('to a server that cannot resume starts over', async () => {
    let requests = 0;
    hub.mishap = (request) => {
      if (!isWeights(request)) return undefined;
      return requests++ === 0 ? { endAfter: 100_000 } : { ignoreRange: true };
    };
    const seen: [number, number][] = [];
    const folder = await resolveModel(
      'org/model',
      options({ onProgress: (done, total) => seen.push([done, total]) }),
    );
    await expectComplete(folder);
    expect(seen.at(-1)![0]).toBe(seen.at(-1)![1]);
  });

  test('to a server that never gets further without resuming ends too', async () => {
    hub.mishap = (request) => (isWeights(request) ? { ignoreRange: true, endAfter: 100_000 } : undefined);
    await failure(resolveModel('org/model', options()), 'network');
    expect(contentRequests()).toHaveLength(PATIENCE.attempts);
  });

  test('to a server that resumes elsewhere starts over', async () => {
    let requests = 0;
    hub.mishap = (request) => {
      if (!isWeights(request)) return undefined;
      return [{ endAfter: 100_000 }, { wrongRange: true }][requests++];
    };
    await expectComplete(await resolveModel('org/model', options()));
    expect(contentRequests().map(({ headers }) => headers.range)).toEqual([
      undefined,
      'bytes=100000-',
      undefined,
    ]);
  });
});

describe('a damaged file', () => {
  test('is fetched again', async () => {
    let requests = 0;
    hub.mishap = (request) => (isWeights(request) && requests++ < 1 ? { corrupt: true } : undefined);
    await expectComplete(await resolveModel('org/model', options()));
    expect(contentRequests()).toHaveLength(2);
  });

  test('that stays damaged is refused and not kept', async () => {
    hub.mishap = (request) => (isWeights(request) ? { corrupt: true } : undefined);
    const message = await failure(resolveModel('org/model', options()), 'invalid');
    expect(message).toMatch(new RegExp(`model\\.safetensors of org/model arrives damaged.*${weightsEtag()}`));
    expect(await readdir(blobs())).not.toContain(weightsEtag());
    expect((await leftovers()).filter((name) => name.startsWith(weightsEtag()))).toEqual([]);
    expect(await readdir(modelFolder())).not.toContain('snapshots');
  });

  test('ends the transfer of the others', async () => {
    hub.mishap = (request) => {
      if (isWeights(request)) return { stallAfter: 1000 };
      return request.path.endsWith('/config.json') ? { corrupt: true } : undefined;
    };
    await failure(resolveModel('org/model', options({ patience: { ...PATIENCE, stallMs: 500 } })), 'invalid');
    expect(contentRequests()).toHaveLength(1);
  });

  test('that is small is noticed too', async () => {
    hub.mishap = ({ path }) => (path.endsWith('/config.json') ? { corrupt: true } : undefined);
    expect(await failure(resolveModel('org/model', options()), 'invalid')).toMatch(
      /config\.json of org\/model arrives damaged/,
    );
  });

  test('of which a wrong part was left is fetched from the start', async () => {
    await mkdir(blobs(), { recursive: true });
    await writeFile(join(blobs(), abandonedName(weightsEtag())), new Uint8Array(1000));
    await expectComplete(await resolveModel('org/model', options()));
    expect(contentRequests().map(({ headers }) => headers.range)).toEqual(['bytes=1000-', undefined]);
  });

  test('of which too much was left is fetched from the start', async () => {
    await mkdir(blobs(), { recursive: true });
    await writeFile(join(blobs(), abandonedName(weightsEtag())), new Uint8Array(weights().length + 1));
    await expectComplete(await resolveModel('org/model', options()));
    expect(contentRequests().map(({ headers }) => headers.range)).toEqual([undefined]);
  });

  test('of which all was left is not fetched', async () => {
    await mkdir(blobs(), { recursive: true });
    await writeFile(join(blobs(), abandonedName(weightsEtag())), weights());
    await expectComplete(await resolveModel('org/model', options()));
    expect(contentRequests()).toEqual([]);
  });

  test('of another length is refused', async () => {
    hub.mishap = (request) =>
      isWeights(request) ? { body: 'xx', headers: { 'content-length': '2' } } : undefined;
    expect(await failure(resolveModel('org/model', options()), 'invalid')).toMatch(
      /other than the 3\d+ bytes/,
    );
    hub.mishap = (request) => (isWeights(request) ? { body: 'x'.repeat(400_000) } : undefined);
    expect(await failure(resolveModel('org/model', options()), 'invalid')).toMatch(
      /more than the 3\d+ bytes/,
    );
    expect(await leftovers()).toEqual([]);
  });

  test('is not what a page that asks for a login is taken for', async () => {
    const page = { body: '<html>Welcome</html>', headers: { 'content-type': 'text/html; charset=utf-8' } };
    hub.mishap = (request) => (isWeights(request) ? page : undefined);
    expect(await failure(resolveModel('org/model', options()), 'network')).toMatch(/web page.*login/);
    // The others end where they are, and keep what they have.
    expect((await leftovers()).filter((name) => name.startsWith(weightsEtag()))).toEqual([]);
    hub.mishap = () => page;
    expect(await failure(resolveModel('org/model', options()), 'network')).toMatch(/web page/);
    hub.mishap = () => ({ body: '{"hello": "world"}' });
    expect(await failure(resolveModel('org/model', options()), 'invalid')).toMatch(/no commit.*is a hub/);
  });
});

/** A partial file of a process on this host that is no more: no system has so high a number. */
function abandonedName(etag: string): string {
  const host = sha256(new TextEncoder().encode(hostname())).slice(0, 8);
  return `${etag}.${host}-99999999-0-0123456789ab.incomplete`;
}

describe('a busy server', () => {
  test('is asked again, after the time that it asks for', async () => {
    let requests = 0;
    hub.mishap = () => [{ status: 429, headers: { 'retry-after': '1' } }, { status: 503 }][requests++];
    const started = performance.now();
    await expectComplete(await resolveModel('org/model', options()));
    expect(performance.now() - started).toBeGreaterThan(990);
    expect(requestsFor('/api/')).toHaveLength(3);
  });

  test('is not waited for as long as it pleases, nor asked for ever', async () => {
    hub.mishap = () => ({ status: 429, headers: { 'retry-after': '3600' } });
    expect(await failure(resolveModel('org/model', options()), 'network')).toMatch(
      /slow down \(status 429\)/,
    );
    expect(hub.log).toHaveLength(1);
    hub.mishap = () => ({ status: 502 });
    expect(await failure(resolveModel('org/model', options()), 'network')).toMatch(/status 502/);
    expect(hub.log).toHaveLength(1 + PATIENCE.attempts);
  });

  test('that redirects in circles is left', async () => {
    hub.mishap = ({ path }) => ({ status: 307, headers: { location: path } });
    expect(await failure(resolveModel('org/model', options()), 'network')).toMatch(/circles/);
  });

  test('that has moved the model is followed, with the token', async () => {
    hub.repos.set('new/model', { ...(await makeRepo()), access: 'private' });
    hub.mishap = ({ path }) =>
      path.includes('org/model')
        ? { status: 307, headers: { location: path.replace('org/model', 'new/model') } }
        : undefined;
    const env = { HF_ENDPOINT: hub.endpoint, HF_HOME: home, HF_TOKEN: hub.token };
    await expectComplete(await resolveModel('org/model', options({ env })));
  });
});

describe('cancelling', () => {
  test('ends at once and leaves the rest to the next call', async () => {
    const controller = new AbortController();
    hub.mishap = (request) => (isWeights(request) ? { stallAfter: 150_000 } : undefined);
    hub.onStall = () => controller.abort();
    expect(
      await failure(resolveModel('org/model', options({ signal: controller.signal })), 'cancelled'),
    ).toMatch(/cancelled.*continue/);
    expect(await readdir(blobs())).not.toContain(weightsEtag());
    const [partial] = await leftovers();
    expect((await stat(join(blobs(), partial!))).size).toBe(150_000);
    hub.mishap = () => undefined;
    hub.log.length = 0;
    await expectComplete(await resolveModel('org/model', options()));
    expect(contentRequests().map(({ headers }) => headers.range)).toEqual(['bytes=150000-']);
  });

  test('before the start asks nothing', async () => {
    await failure(resolveModel('org/model', options({ signal: AbortSignal.abort() })), 'cancelled');
    expect(hub.log).toEqual([]);
  });

  test('while waiting for a busy server does not wait on', async () => {
    const controller = new AbortController();
    hub.mishap = () => {
      setTimeout(() => controller.abort(), 20);
      return { status: 503, headers: { 'retry-after': '200' } };
    };
    await failure(resolveModel('org/model', options({ signal: controller.signal })), 'cancelled');
  });
});

describe('without a network', () => {
  /** A port that nobody listens on. */
  async function unreachable(): Promise<string> {
    const other = await startHub();
    await other[Symbol.asyncDispose]();
    return other.endpoint;
  }

  test('the cached copy is used, with a warning', async () => {
    const folder = await resolveModel('org/model', options());
    const warnings: string[] = [];
    const env = { HF_ENDPOINT: await unreachable(), HF_HOME: home };
    expect(await resolveModel('org/model', options({ env, onWarning: (line) => warnings.push(line) }))).toBe(
      folder,
    );
    expect(warnings).toEqual([
      expect.stringMatching(/connection to 127.*ECONNREFUSED.*using the copy of org\/model/),
    ]);
  });

  test('HF_HUB_OFFLINE does not even ask', async () => {
    const env = { HF_ENDPOINT: hub.endpoint, HF_HOME: home, HF_HUB_OFFLINE: '1' };
    expect(await failure(resolveModel('org/model', options({ env })), 'network')).toMatch(
      /Unset HF_HUB_OFFLINE/,
    );
    expect(hub.log).toEqual([]);
    const folder = await resolveModel('org/model', options());
    hub.log.length = 0;
    expect(await resolveModel('org/model', options({ env }))).toBe(folder);
    expect(hub.log).toEqual([]);
  });

  test('an incomplete copy is none', async () => {
    const folder = await resolveModel('org/model', options());
    await rm(join(blobs(), weightsEtag()));
    const env = { HF_ENDPOINT: await unreachable(), HF_HOME: home };
    expect(await failure(resolveModel('org/model', options({ env })), 'network')).toMatch(/ECONNREFUSED/);
    expect(await resolveModel('org/model', options())).toBe(folder);
    await expectComplete(folder);
  });

  test('or with a malformed address, the error says so', async () => {
    const env = { HF_ENDPOINT: 'ftp://x', HF_HOME: home };
    expect(await failure(resolveModel('org/model', options({ env })), 'usage')).toMatch(
      /HF_ENDPOINT is "ftp:\/\/x"/,
    );
  });
});

describe('several at once', () => {
  test('all succeed', async () => {
    hub.repos.set('org/model', await makeRepo(2));
    const folders = await Promise.all(Array.from({ length: 4 }, () => resolveModel('org/model', options())));
    expect(new Set(folders).size).toBe(1);
    await expectComplete(folders[0]!);
    expect(await leftovers()).toEqual([]);
  });

  test('do not touch the file of a process that is alive, until it is old', async () => {
    await mkdir(blobs(), { recursive: true });
    const foreign = join(blobs(), `${weightsEtag()}.00000000-1-0-0123456789ab.incomplete`);
    await writeFile(foreign, weights().subarray(0, 1000));
    await resolveModel('org/model', options());
    expect(contentRequests().map(({ headers }) => headers.range)).toEqual([undefined]);
    expect((await stat(foreign)).size).toBe(1000);
    await rm(join(blobs(), weightsEtag()));
    const old = Date.now() / 1000 - 3600;
    await utimes(foreign, old, old);
    hub.log.length = 0;
    await expectComplete(await resolveModel('org/model', options()));
    expect(contentRequests().map(({ headers }) => headers.range)).toEqual(['bytes=1000-']);
    expect(await leftovers()).toEqual([]);
  });
});

describe('the disk', () => {
  test('without room is noticed before the download', async () => {
    const siblings = ['config.json', 'model.safetensors'].map((rfilename) => ({
      rfilename,
      size: 2 ** 52,
      blobId: gitBlob(text(rfilename)),
    }));
    hub.mishap = () => ({ body: JSON.stringify({ sha: COMMIT, siblings }) });
    expect(await failure(resolveModel('org/model', options()), 'environment')).toMatch(
      /needs 9007199\.3 GB.*HF_HUB_CACHE/,
    );
  });

  test.skipIf(process.platform !== 'linux')('that fills up meanwhile ends the download', async () => {
    await mkdir(blobs(), { recursive: true });
    await symlink('/dev/full', join(blobs(), abandonedName(weightsEtag())));
    expect(await failure(resolveModel('org/model', options()), 'environment')).toMatch(
      /disk is full.*Free some space/,
    );
    expect(await readdir(blobs())).not.toContain(weightsEtag());
    await expectComplete(await resolveModel('org/model', options()));
  });

  test('where nothing can be written is named', async () => {
    await writeFile(join(home, 'file'), '');
    const env = { HF_ENDPOINT: hub.endpoint, HF_HOME: home, HF_HUB_CACHE: join(home, 'file') };
    expect(await failure(resolveModel('org/model', options({ env })), 'not-found')).toMatch(/file/);
  });
});

describe('GGUF files', () => {
  const offer = (...names: string[]) => {
    const files = new Map(names.map((name) => [name, text(name)]));
    hub.repos.set('org/model', { commit: COMMIT, files, large: new Set() });
  };
  const problem = (spec: string) =>
    resolveModel(spec, options()).then(
      () => 'none',
      ({ code, message, hint }) => `${code}: ${message} ${hint}`,
    );

  test('the only one is taken, from the cache when the hub is away', async () => {
    offer('README.md', 'm-i2_s.gguf');
    const path = await resolveModel('org/model', options());
    expect(path).toMatch(/m-i2_s\.gguf$/);
    expect(await readFile(path, 'utf8')).toBe('"m-i2_s.gguf"');
    expect(requestsFor('README')).toEqual([]);
    const env = { HF_ENDPOINT: hub.endpoint, HF_HOME: home, HF_HUB_OFFLINE: '1' };
    expect(await resolveModel('org/model', options({ env }))).toBe(path);
  });

  test('of several, one must be named', async () => {
    offer('a-q8.gguf', 'sub/b-q4.gguf');
    const why = await problem('org/model');
    expect(why).toMatch(/^usage: .*2 GGUF models.*hf:org\/model\/a-q8\.gguf, hf:org\/model\/sub\/b-q4\.gguf/);
    const path = await resolveModel('hf:org/model/sub/b-q4.gguf@main', options());
    expect(await readFile(path, 'utf8')).toBe('"sub/b-q4.gguf"');
    expect(requestsFor('a-q8')).toEqual([]);
    expect(await problem('hf:org/model/c.gguf')).toMatch(
      /^not-found: .*"c\.gguf".*hf:org\/model\/a-q8\.gguf/,
    );
    expect(await problem('hf:org/model/../c.gguf')).toMatch(/^usage: /);
  });

  test('all shards of one come together', async () => {
    offer('m-00001-of-00002.gguf', 'm-00002-of-00002.gguf');
    const path = await resolveModel('org/model', options());
    expect(path).toMatch(/m-00001-of-00002\.gguf$/);
    expect(await readFile(path.replace('00001-of', '00002-of'), 'utf8')).toBe('"m-00002-of-00002.gguf"');
    offer('m-00001-of-00002.gguf');
    await rm(join(home, 'hub'), { recursive: true });
    expect(await problem('org/model')).toMatch(/^not-found: .*m-00002-of-00002\.gguf/);
  });

  test('safetensors come first where a model has both', async () => {
    expect(await readdir(await resolveModel('org/model', options()))).not.toContain('model.gguf');
    expect(await resolveModel('hf:org/model/model.gguf', options())).toMatch(/model\.gguf$/);
  });
});

describe('headers alone', () => {
  const unfetched = async () => (await openUnfetched('hf:org/model', options()))!;

  /** Bytes of weights that were asked for. */
  const asked = () =>
    hub.log
      .filter(({ server }) => server === 'content')
      .reduce((sum, { headers }) => {
        const [, begin, end] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? [];
        return sum + Number(end) - Number(begin) + 1;
      }, 0);

  test.each([1, 2] as const)('say the same as a download, of %i files', async (shards) => {
    const repo = await makeRepo(shards);
    // A file that is larger than what is read of it at a time.
    hub.repos.set('org/model', repo);
    const { checkpoint, downloadBytes } = await unfetched();
    expect(asked()).toBeLessThan(shards * TENSOR_BYTES);
    const weightFiles = [...repo.files].filter(([name]) => /^model.*\.safetensors$/.test(name));
    expect(downloadBytes).toBe(weightFiles.reduce((sum, [, bytes]) => sum + bytes.length, 0));
    expect(checkpoint.path).toBe('hf:org/model');
    const whole = await openCheckpoint(await resolveModel('org/model', options()));
    expect(checkpoint.config).toEqual(whole.config);
    expect([...checkpoint.tensors]).toEqual([...whole.tensors]);
    // What is asked for comes, whether or not its first part is there already.
    for (const name of whole.tensors.keys())
      expect(await checkpoint.read(name)).toEqual(await whole.read(name));
    await Promise.all([checkpoint.close(), whole.close()]);
    // Now that the model is here, its files are taken.
    const { checkpoint: local, downloadBytes: none } = await unfetched();
    expect(none).toBe(0);
    expect(local.path).toContain('snapshots');
    await local.close();
  });

  test.each([
    ['a connection that breaks', { breakAfter: 10 }],
    ['a server that ignores ranges', { ignoreRange: true }],
    ['a server out of order', { status: 503 }],
  ])('come over %s', async (_, mishap) => {
    let count = 0;
    hub.mishap = ({ server }) =>
      server === 'content' && (count++ === 0 || 'ignoreRange' in mishap) ? mishap : undefined;
    const { checkpoint } = await unfetched();
    expect([...checkpoint.tensors.keys()]).toEqual(['a']);
    const bytes = await checkpoint.read('a');
    expect(bytes[TENSOR_BYTES - 1]).toBe(randomWord(0, TENSOR_BYTES - 1) & 255);
    await checkpoint.close();
  });

  test('are refused where they are wrong, or come from elsewhere', async () => {
    hub.mishap = ({ server }) => (server === 'content' ? { wrongRange: true } : undefined);
    expect(await failure(unfetched(), 'network')).toMatch(/does not send the part of model\.safetensors/);
    hub.mishap = () => undefined;
    const repo = hub.repos.get('org/model')!;
    const files = new Map(repo.files).set('model.safetensors', new Uint8Array(40).fill(1));
    hub.repos.set('org/model', { ...repo, files });
    expect(await failure(unfetched(), 'invalid')).toMatch(
      /hf:org\/model\/model\.safetensors: its header claims/,
    );
    expect(await failure(openUnfetched('hf:org/none', options()), 'not-found')).toMatch(/no model org\/none/);
    expect(await openUnfetched(home, options())).toBeUndefined();
  });

  test('of a GGUF file', async () => {
    const tokens = Array.from({ length: 40_000 }, (_, id) => `token number ${id}`);
    const own = (key: string, bytes: readonly number[]) => [`llama.${key}`, bytes] as const;
    const file = ggufFile({
      entries: [
        ['general.architecture', value.text('llama')],
        ...['embedding_length', 'block_count', 'context_length', 'feed_forward_length'].map((key) =>
          own(key, value.u32(64)),
        ),
        own('attention.head_count', value.u32(2)),
        own('attention.layer_norm_rms_epsilon', value.f32(1e-5)),
        ['tokenizer.ggml.model', value.text('gpt2')],
        ['tokenizer.ggml.pre', value.text('qwen2')],
        ['tokenizer.ggml.tokens', value.texts(tokens)],
      ],
      tensors: [{ name: 'token_embd.weight', type: 0, sizes: [64, 10_000], data: new Uint8Array(2_560_000) }],
    });
    hub.repos.set('org/model', {
      commit: COMMIT,
      files: new Map([['m.gguf', file]]),
      large: new Set(['m.gguf']),
    });
    const { checkpoint, downloadBytes } = await unfetched();
    expect(downloadBytes).toBe(file.length);
    expect(asked()).toBeLessThan(1.3e6);
    expect(checkpoint.path).toBe('hf:org/model/m.gguf');
    expect(checkpoint.config).toMatchObject({ model_type: 'llama', vocab_size: 10_000 });
    expect(await checkpoint.read('model.embed_tokens.weight')).toHaveLength(2_560_000);
    await checkpoint.close();
  });
});
