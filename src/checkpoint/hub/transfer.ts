/** Downloads one file into the cache: resumed, verified, renamed when complete. */
import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { LutraError } from '../../common/errors.ts';
import { fileFailure } from '../failure.ts';
import { blobPath, sizeOf } from './cache.ts';
import { attemptRequest, bodyParts, refusal, type Watchdog } from './http.ts';
import { fileUrl, type RemoteFile } from './listing.ts';
import { claimPartial, releasePartial, removeAbandoned } from './partial.ts';
import { type Attempt, cancelled, repeat, unwrap } from './retry.ts';
import type { HubSettings } from './settings.ts';
import type { RepoSpec } from './spec.ts';

/** Where files come from and go to. */
export interface Transfer {
  readonly hub: HubSettings;
  readonly spec: RepoSpec;
  readonly commit: string;
  /** The model's folder in the cache. */
  readonly folder: string;
  /** Bytes that arrived; negative when some turn out to be useless. */
  readonly onBytes: (bytes: number) => void;
  readonly signal: AbortSignal;
}

/** A file that is being written: the first `done` bytes are there, and `hash` has seen them. */
interface Writer {
  readonly handle: FileHandle;
  readonly file: RemoteFile;
  done: number;
  hash: Hash;
}

const READ_BYTES = 1 << 20;

/**
 * Brings `file` into `blobs/`.
 * @throws `network` when the connection keeps failing, `invalid` when the content keeps being another than
 *   the hash says, `environment` when the disk is full, `cancelled`; in each case but a wrong content, what
 *   arrived stays for the next time
 */
export async function transferFile(transfer: Transfer, file: RemoteFile): Promise<void> {
  const blobs = join(transfer.folder, 'blobs');
  await mkdir(blobs, { recursive: true }).catch((error: unknown) => {
    throw fileFailure(error, 'making', blobs);
  });
  const partial = await claimPartial(blobs, file.etag);
  try {
    await fill(transfer, file, partial);
    await publish(partial, blobPath(transfer.folder, file.etag), file.size);
    await removeAbandoned(blobs, file.etag);
  } finally {
    releasePartial(partial);
  }
}

async function fill(transfer: Transfer, file: RemoteFile, partial: string): Promise<void> {
  // Neither of fs's letters makes a missing file and keeps the content of another.
  const handle = await open(partial, constants.O_RDWR | constants.O_CREAT).catch((error: unknown) => {
    throw fileFailure(error, 'writing', partial);
  });
  const writer = { handle, file, done: 0, hash: newHash(file) };
  try {
    await takeOver(transfer, writer);
    await download(transfer, writer);
    if (!matches(writer)) {
      // Perhaps only what an earlier download left was wrong: once more, from the start.
      await restart(transfer, writer);
      await download(transfer, writer);
    }
    if (!matches(writer)) {
      await restart(transfer, writer);
      const what = `${file.path} of ${transfer.spec.repo} arrives damaged: its hash is not ${file.etag}`;
      throw new LutraError('invalid', what, {
        hint: 'Try again; if it stays so, a proxy or mirror on the way alters the file.',
      });
    }
    await handle.datasync();
  } catch (error) {
    throw fileFailure(error, 'writing', partial);
  } finally {
    await handle.close();
    if (writer.done === 0) await rm(partial, { force: true });
  }
}

/** Accepts what an earlier download left: reads it for the hash. */
async function takeOver(transfer: Transfer, writer: Writer): Promise<void> {
  const { size } = await writer.handle.stat();
  if (size > writer.file.size) return restart(transfer, writer);
  const buffer = new Uint8Array(Math.min(READ_BYTES, size));
  while (writer.done < size) {
    if (transfer.signal.aborted) throw cancelled(transfer.signal);
    const { bytesRead } = await writer.handle.read(buffer, 0, buffer.length, writer.done);
    if (bytesRead === 0) break;
    writer.hash.update(buffer.subarray(0, bytesRead));
    writer.done += bytesRead;
    transfer.onBytes(bytesRead);
  }
}

async function restart(transfer: Transfer, writer: Writer): Promise<void> {
  await writer.handle.truncate(0);
  transfer.onBytes(-writer.done);
  writer.done = 0;
  writer.hash = newHash(writer.file);
}

async function download(transfer: Transfer, writer: Writer): Promise<void> {
  const { hub, spec, commit, signal } = transfer;
  const url = fileUrl(hub, spec, commit, writer.file.path);
  if (writer.done === writer.file.size) return;
  const outcome = await repeat(hub.patience, signal, async () => {
    const before = writer.done;
    const headers: Record<string, string> = before > 0 ? { range: `bytes=${before}-` } : {};
    const attempt = await attemptRequest(hub, { method: 'GET', url, headers }, signal, (response, watchdog) =>
      receive(transfer, writer, response, watchdog),
    );
    return attempt.ok ? attempt : { ...attempt, progressed: writer.done > before };
  });
  unwrap(outcome);
}

async function receive(
  transfer: Transfer,
  writer: Writer,
  response: Response,
  watchdog: Watchdog,
): Promise<Attempt<void>> {
  const { file, handle } = writer;
  const refused = await begin(transfer, writer, response);
  if (refused !== undefined) return refused;
  for await (const chunk of bodyParts(response, watchdog)) {
    if (writer.done + chunk.length > file.size) throw await wrongLength(transfer, writer, 'more than');
    try {
      let written = 0;
      while (written < chunk.length) {
        written += (await handle.write(chunk, written, chunk.length - written, writer.done + written))
          .bytesWritten;
      }
    } catch (error) {
      throw fileFailure(error, 'writing', blobPath(transfer.folder, file.etag));
    }
    writer.hash.update(chunk);
    writer.done += chunk.length;
    transfer.onBytes(chunk.length);
  }
  if (writer.done === file.size) return { ok: true, value: undefined };
  return again(`${file.path} ended after ${writer.done} of ${file.size} bytes`);
}

/** Checks that the answer continues where the file ends, or starts over with a server that cannot do so. */
async function begin(
  transfer: Transfer,
  writer: Writer,
  response: Response,
): Promise<Attempt<void> | undefined> {
  const { file } = writer;
  if (response.status === 206) {
    const [, start, total] =
      /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '') ?? [];
    if (Number(start) === writer.done && (total === '*' || Number(total) === file.size)) return undefined;
  }
  if (response.status === 206 || response.status === 416) {
    await restart(transfer, writer);
    return again(`the server did not continue ${file.path} where it was asked to`);
  }
  if (!response.ok) return refusal(transfer.hub, transfer.spec, response, file.path);
  const length = response.headers.get('content-length');
  if (length !== null && Number(length) !== file.size)
    throw await wrongLength(transfer, writer, 'other than');
  if (writer.done > 0) await restart(transfer, writer);
  return undefined;
}

function again(message: string): Attempt<void> {
  return {
    ok: false,
    failure: new LutraError('network', message, { hint: 'Try again: what has arrived is kept.' }),
  };
}

async function wrongLength(transfer: Transfer, writer: Writer, how: string): Promise<LutraError> {
  await restart(transfer, writer);
  const { path, size } = writer.file;
  return new LutraError('invalid', `the server sends ${how} the ${size} bytes that ${path} has`, {
    hint: 'Try again; if it stays so, a proxy or mirror on the way alters the file.',
  });
}

function newHash(file: RemoteFile): Hash {
  if (file.etag.length === 64) return createHash('sha256');
  return createHash('sha1').update(`blob ${file.size}\0`);
}

function matches(writer: Writer): boolean {
  return writer.hash.copy().digest('hex') === writer.file.etag;
}

async function publish(partial: string, blob: string, size: number): Promise<void> {
  try {
    await rename(partial, blob);
  } catch (error) {
    // Windows does not replace a file that another process has open; it has the same content.
    if ((await sizeOf(blob)) !== size) throw fileFailure(error, 'writing', blob);
    await rm(partial, { force: true });
  }
}
