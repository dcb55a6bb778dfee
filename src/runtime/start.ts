import { close, open, read } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type CodeEntry, type Manifest, WEIGHTS_FILE } from '../artifact/manifest.ts';
import { LutraError } from '../common/errors.ts';
import { nodePlatform } from '../platform/node.ts';
import { loadNative } from '../targets/c/executable.ts';
import type { Executable, LookupTable } from '../targets/executable.ts';
import { createWasmExecutable } from '../targets/wasm/executable.ts';
import type { Candidate } from './targets.ts';

/** What of an artifact, or of one being built, is needed to run it. */
export interface Runnable {
  readonly path: string;
  readonly needs: Manifest['needs'];
  readonly code: readonly CodeEntry[];
  /** Tables of the weights of which WebAssembly need not hold what no token asked for. */
  readonly lookups?: readonly LookupTable[];
  /** Whether native code copies weights into huge pages; default: as the environment says. */
  readonly hugePages?: boolean;
}

/** The file with a candidate's code. */
function codeFile(runnable: Runnable, candidate: Candidate): string {
  const here = `${process.platform}-${process.arch}`;
  const entry = runnable.code.find(
    ({ machines, platform }) => machines.includes(candidate.machine) && (platform ?? here) === here,
  );
  if (entry === undefined) {
    throw new LutraError('environment', `${runnable.path} has no code for ${candidate.machine} on ${here}`, {
      hint: 'Compile the model on this machine.',
    });
  }
  return join(runnable.path, entry.file);
}

async function startWasm(
  runnable: Runnable,
  { machine, plain = false }: Candidate,
  code: string,
  threads: number,
  signal: AbortSignal | undefined,
): Promise<Executable> {
  const path = join(runnable.path, WEIGHTS_FILE);
  // Not a FileHandle, which would complain when an executable that nobody closed is collected.
  const file = await promisify(open)(path, 'r');
  const closeFile = () => promisify(close)(file);
  let closing: Promise<void> | undefined;
  try {
    const executable = await createWasmExecutable({
      module: await readFile(code),
      target: machine,
      needs: runnable.needs,
      weights: {
        bytes: (await stat(path)).size,
        read: async (offset, into) => {
          for (let done = 0; done < into.length; ) {
            if (signal?.aborted) throw new LutraError('cancelled', 'cancelled');
            // The descriptor may be another file's by now.
            if (closing !== undefined) throw new LutraError('cancelled', 'the model was closed');
            const { bytesRead } = await promisify(read)(file, into, done, into.length - done, offset + done);
            if (bytesRead === 0) throw new LutraError('invalid', `${path} is cut short`);
            done += bytesRead;
          }
        },
        lookups: runnable.lookups ?? [],
      },
      threads,
      platform: nodePlatform,
      plain,
    });
    return {
      ...executable,
      close: () => {
        closing ??= executable.close().finally(closeFile);
        return closing;
      },
    };
  } catch (error) {
    await closeFile();
    throw error;
  }
}

/** Loads a candidate's code and the weights; a signal ends the reading of these. The executable is the caller's to close. */
export async function startExecutable(
  runnable: Runnable,
  candidate: Candidate,
  threads: number,
  signal?: AbortSignal,
): Promise<Executable> {
  const code = codeFile(runnable, candidate);
  if (candidate.kind === 'wasm') return startWasm(runnable, candidate, code, threads, signal);
  return loadNative({
    library: code,
    weights: join(runnable.path, WEIGHTS_FILE),
    machine: candidate.machine,
    needs: runnable.needs,
    threads,
    ...(runnable.hugePages === undefined ? {} : { hugePages: runnable.hugePages }),
  });
}
