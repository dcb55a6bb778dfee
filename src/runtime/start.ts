import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type CodeEntry, type Manifest, WEIGHTS_FILE } from '../artifact/manifest.ts';
import { LutraError } from '../common/errors.ts';
import { nodePlatform } from '../platform/node.ts';
import { loadNative } from '../targets/c/executable.ts';
import type { Executable } from '../targets/executable.ts';
import { createWasmExecutable } from '../targets/wasm/executable.ts';
import type { Candidate } from './targets.ts';

/** What of an artifact, or of one being built, is needed to run it. */
export interface Runnable {
  readonly path: string;
  readonly needs: Manifest['needs'];
  readonly code: readonly CodeEntry[];
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
  machine: string,
  code: string,
  threads: number,
): Promise<Executable> {
  const path = join(runnable.path, WEIGHTS_FILE);
  const file = await open(path);
  try {
    return await createWasmExecutable({
      module: await readFile(code),
      target: machine,
      needs: runnable.needs,
      weights: {
        bytes: (await stat(path)).size,
        read: async (offset, into) => {
          for (let done = 0; done < into.length; ) {
            const { bytesRead } = await file.read(into, done, into.length - done, offset + done);
            if (bytesRead === 0) throw new LutraError('invalid', `${path} is cut short`);
            done += bytesRead;
          }
        },
      },
      threads,
      platform: nodePlatform,
    });
  } finally {
    await file.close();
  }
}

/** Loads a candidate's code and the weights. The executable is the caller's to close. */
export async function startExecutable(
  runnable: Runnable,
  candidate: Candidate,
  threads: number,
): Promise<Executable> {
  const code = codeFile(runnable, candidate);
  if (candidate.kind === 'wasm') return startWasm(runnable, candidate.machine, code, threads);
  return loadNative({
    library: code,
    weights: join(runnable.path, WEIGHTS_FILE),
    machine: candidate.machine,
    needs: runnable.needs,
    threads,
  });
}
