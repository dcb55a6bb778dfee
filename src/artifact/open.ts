import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LutraError } from '../common/errors.ts';
import type { Plan } from '../plan/types.ts';
import { hashFile } from './files.ts';
import {
  MANIFEST_FILE,
  type Manifest,
  memoryNeeds,
  PLAN_FILE,
  parseManifest,
  SELF_TEST_FILE,
  TEXT_FOLDER,
} from './manifest.ts';
import { type SelfTest, selfTestSchema } from './self-test.ts';

/** A compiled model on disk, its manifest checked and its files present. */
export interface Artifact {
  readonly path: string;
  readonly manifest: Manifest;
  readonly plan: Plan;
  readonly selfTest: SelfTest;
  /** Tokenizer, template and configuration files, by name. */
  readonly textFiles: ReadonlyMap<string, string>;
}

const DAMAGED = { hint: 'The artifact is damaged: compile the model again.' };

export async function isArtifact(path: string): Promise<boolean> {
  return stat(join(path, MANIFEST_FILE)).then(
    (facts) => facts.isFile(),
    () => false,
  );
}

async function readSmall(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((cause) => {
    throw new LutraError('invalid', `cannot read ${path}`, { cause, ...DAMAGED });
  });
}

/**
 * Opens an artifact: manifest and sizes of all files are checked here, hashes by `verifyHashes`. Throws
 * `not-found` when there is none, `unsupported` for a newer version, `invalid` for anything damaged.
 */
export async function openArtifact(path: string): Promise<Artifact> {
  if (!(await isArtifact(path))) {
    throw new LutraError('not-found', `${path} is not a compiled model: it has no ${MANIFEST_FILE}`);
  }
  const where = join(path, MANIFEST_FILE);
  const manifest = parseManifest(await readSmall(where), where);
  for (const [name, facts] of Object.entries(manifest.files)) {
    const found = await stat(join(path, name)).catch(() => undefined);
    if (found === undefined) throw new LutraError('invalid', `${path}: ${name} is missing`, DAMAGED);
    if (found.size !== facts.bytes) {
      throw new LutraError(
        'invalid',
        `${path}: ${name} has ${found.size} bytes instead of ${facts.bytes}`,
        DAMAGED,
      );
    }
  }
  const plan = parseJson(await readSmall(join(path, PLAN_FILE)), join(path, PLAN_FILE)) as Plan;
  if (JSON.stringify(memoryNeeds(plan)) !== JSON.stringify(manifest.needs)) {
    throw new LutraError('invalid', `${path}: ${PLAN_FILE} and ${MANIFEST_FILE} disagree`, DAMAGED);
  }
  const test = selfTestSchema.safeParse(
    parseJson(await readSmall(join(path, SELF_TEST_FILE)), SELF_TEST_FILE),
  );
  if (!test.success) throw new LutraError('invalid', `${path}: ${SELF_TEST_FILE} is malformed`, DAMAGED);
  const textFiles = new Map<string, string>();
  for (const name of await readdir(join(path, TEXT_FOLDER)).catch(() => [])) {
    textFiles.set(name, await readSmall(join(path, TEXT_FOLDER, name)));
  }
  return { path, manifest, plan, selfTest: test.data, textFiles };
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new LutraError('invalid', `${where} is not JSON`, { cause, ...DAMAGED });
  }
}

/** Compares every file with its hash in the manifest; reads the whole artifact. Throws `invalid`. */
export async function verifyHashes(artifact: Artifact, signal?: AbortSignal): Promise<void> {
  for (const [name, facts] of Object.entries(artifact.manifest.files)) {
    if ((await hashFile(join(artifact.path, name), signal)) !== facts.sha256) {
      throw new LutraError('invalid', `${artifact.path}: ${name} was changed after it was compiled`, DAMAGED);
    }
  }
}
