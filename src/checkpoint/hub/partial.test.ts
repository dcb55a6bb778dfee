import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { claimPartial, releasePartial, removeAbandoned, resumableBytes } from './partial.ts';

const ETAG = 'c'.repeat(64);
const HOST = createHash('sha256').update(hostname()).digest('hex').slice(0, 8);
/** A process number that no system gives. */
const DEAD = 99999999;

let blobs: string;

beforeEach(async () => {
  blobs = await mkdtemp(join(tmpdir(), 'lutra-partial-'));
});
afterEach(() => rm(blobs, { recursive: true }));

async function leave(
  content: string,
  { host = HOST, pid = DEAD, thread = 0, minutesAgo = 0 } = {},
): Promise<string> {
  const path = join(blobs, `${ETAG}.${host}-${pid}-${thread}-${content.padStart(12, '0')}.incomplete`);
  await writeFile(path, content);
  const time = Date.now() / 1000 - 60 * minutesAgo;
  await utimes(path, time, time);
  return path;
}

async function claim(): Promise<string> {
  const path = await claimPartial(blobs, ETAG);
  releasePartial(path);
  return path;
}

test('a claim without a predecessor is a new name, each time', async () => {
  const claims = await Promise.all([claim(), claim()]);
  expect(new Set(claims).size).toBe(2);
  expect(await readdir(blobs)).toEqual([]);
});

test('the largest abandoned file is taken over', async () => {
  await leave('1');
  await leave('123');
  await leave('12');
  expect(await resumableBytes(blobs, ETAG)).toBe(3);
  expect(await readFile(await claim(), 'utf8')).toBe('123');
  await removeAbandoned(blobs, ETAG);
  expect(await readdir(blobs)).toEqual([]);
});

test('only one of many gets it', async () => {
  await leave('123');
  const claims = await Promise.all(Array.from({ length: 20 }, () => claimPartial(blobs, ETAG)));
  const [only, ...others] = await readdir(blobs);
  expect(others).toEqual([]);
  expect(claims.map((path) => basename(path)).filter((name) => name === only)).toHaveLength(1);
  for (const path of claims) releasePartial(path);
});

test.each([
  ['of a process that runs', { pid: process.ppid }, false],
  ['of such a process, but old', { pid: process.ppid, minutesAgo: 60 }, true],
  ['of another thread', { pid: process.pid, thread: 7 }, false],
  ['of this thread, no longer written', { pid: process.pid }, true],
  ['of another host', { host: '00000000' }, false],
  ['of another host, but old', { host: '00000000', minutesAgo: 60 }, true],
])('a file %s: taken over is %s', async (_whose, owner, taken) => {
  // The thread that runs the tests has a number too.
  const { threadId } = await import('node:worker_threads');
  await leave('123', { thread: threadId, ...owner });
  const path = await claim();
  expect((await readdir(blobs)).includes(basename(path))).toBe(taken);
});

test('a file that this thread is writing is not taken from it', async () => {
  const first = await claimPartial(blobs, ETAG);
  await writeFile(first, '123');
  expect(await claim()).not.toBe(first);
  await removeAbandoned(blobs, ETAG);
  expect(await readFile(first, 'utf8')).toBe('123');
  releasePartial(first);
  await claim();
  expect(await readdir(blobs)).not.toContain(basename(first));
});

test('files of other contents and of other tools are left alone', async () => {
  const names = [
    `${ETAG}.incomplete`,
    `${ETAG}.1a2b3c4d.incomplete`,
    `${'d'.repeat(64)}.${HOST}-${DEAD}-0-000000000000.incomplete`,
    ETAG,
  ];
  for (const name of names) await writeFile(join(blobs, name), 'x');
  expect(await resumableBytes(blobs, ETAG)).toBe(0);
  await claim();
  await removeAbandoned(blobs, ETAG);
  expect((await readdir(blobs)).sort()).toEqual(names.sort());
});
