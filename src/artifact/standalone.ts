/** A model for devices without Node: C sources, weights, and what builds them. */
import { constants, createReadStream, createWriteStream } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileFailure } from '../checkpoint/failure.ts';
import { LutraError } from '../common/errors.ts';
import { VERSION } from '../common/version.ts';
import type { TunedSchedule } from '../plan/types.ts';
import { type Arch, machinesFor } from '../targets/c/machines.ts';
import { HEADER } from '../targets/c/standalone/header.ts';
import { standaloneLibrary } from '../targets/c/standalone/library.ts';
import { PROGRAM } from '../targets/c/standalone/program.ts';
import { cmakeProject, readme } from '../targets/c/standalone/project.ts';
import { generateC } from './build.ts';
import { PendingFolder } from './files.ts';
import { STANDALONE_FILE, WEIGHTS_FILE } from './manifest.ts';
import type { Artifact } from './open.ts';

export interface StandaloneOptions {
  /** The folder to write; it appears whole or not at all. */
  readonly output: string;
  /** Whose code it has; `any` has portable C alone. */
  readonly arch: Arch | 'any';
  /** Any of these tokens ends a text. */
  readonly endTokens: readonly number[];
  /** Schedules to take instead of kernels' defaults. */
  readonly tuned?: readonly TunedSchedule[];
  readonly signal?: AbortSignal;
}

/** What was written. */
export interface Standalone {
  readonly name: string;
  readonly path: string;
  readonly arch: Arch | 'any';
  /** `c:dotprod`, ..., best first. */
  readonly variants: readonly string[];
  readonly bytes: number;
}

/**
 * Writes a compiled model as a C project. The weights are the artifact's, byte for byte; of code there are the
 * variants for the architecture, and the scalar one. Throws `unsupported` for a model with operators of the
 * user's own, whose code is nowhere but in the program that compiled it.
 */
export async function writeStandalone(artifact: Artifact, options: StandaloneOptions): Promise<Standalone> {
  const { manifest, plan, selfTest } = artifact;
  const { arch, output, endTokens, tuned = [], signal } = options;
  const machines = machinesFor(arch);
  const variants = machines.map(({ name }) => name);
  const source = generateC(plan, variants, { tuned });
  const weights = manifest.files[WEIGHTS_FILE];
  if (weights === undefined) throw new LutraError('invalid', `${artifact.path} has no ${WEIGHTS_FILE}`);
  const { name, context } = manifest;
  const { vocab, logitsStride, weightsBytes, arenaBytes, cacheBytes } = plan;
  const folder = await PendingFolder.create(output);
  try {
    await copyWeights(join(artifact.path, WEIGHTS_FILE), join(folder.path, WEIGHTS_FILE), signal);
    folder.files[WEIGHTS_FILE] = weights;
    await folder.add('model.c', source);
    await folder.add('lutra.h', HEADER);
    const { steps } = selfTest;
    await folder.add('lutra.c', standaloneLibrary({ name, context, vocab, logitsStride, endTokens, steps }));
    await folder.add('main.c', PROGRAM);
    await folder.add('CMakeLists.txt', cmakeProject());
    const isas = machines.map(({ isa }) => isa);
    const facts = { name, arch, variants: isas, context, vocab, weightsBytes, arenaBytes, cacheBytes };
    await folder.add('README.md', readme({ ...facts, weightsSha256: weights.sha256 }));
    const bytes = Object.values(folder.files).reduce((sum, file) => sum + file.bytes, 0);
    const record = {
      format: 'lutra-standalone',
      compiler: VERSION,
      name,
      arch,
      variants,
      files: folder.files,
    };
    await folder.add(STANDALONE_FILE, `${JSON.stringify(record, null, 2)}\n`);
    if (signal?.aborted) throw new LutraError('cancelled', 'compilation was cancelled');
    await folder.publish();
    return { name, path: output, arch, variants, bytes };
  } catch (error) {
    await folder.discard();
    throw error;
  }
}

/** Shares the file's blocks where the file system can; elsewhere a signal ends it. */
async function copyWeights(from: string, to: string, signal: AbortSignal | undefined): Promise<void> {
  try {
    return await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE);
  } catch {
    // It cannot: the bytes are copied.
  }
  const reader = createReadStream(from, { highWaterMark: 1 << 20 });
  try {
    await pipeline(reader, createWriteStream(to), signal === undefined ? {} : { signal });
  } catch (cause) {
    if (signal?.aborted) throw new LutraError('cancelled', 'compilation was cancelled');
    throw fileFailure(cause, 'writing', to, 'choose another folder');
  }
}
