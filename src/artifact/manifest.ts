import { z } from 'zod';
import { LutraError } from '../common/errors.ts';
import type { Plan } from '../plan/types.ts';

/** Raised whenever artifacts change so that another lutra cannot run them: one reads its own version only. */
export const ARTIFACT_VERSION = 2;

/** File names inside an artifact folder. */
export const MANIFEST_FILE = 'manifest.json';
export const PLAN_FILE = 'plan.json';
export const WEIGHTS_FILE = 'weights.bin';
export const SELF_TEST_FILE = 'self-test.json';
export const C_FILE = 'code/model.c';
export const TEXT_FOLDER = 'text';
/** What marks a folder of `writeStandalone`. */
export const STANDALONE_FILE = 'standalone.json';

const fileSchema = z.object({ bytes: z.int().nonnegative(), sha256: z.string().regex(/^[0-9a-f]{64}$/) });

/** Code for one target: which file runs which machines (`c:avx2`, `wasm:baseline`). */
const codeSchema = z.object({
  file: z.string(),
  machines: z.array(z.string()).min(1),
  /** Where a native library runs: `linux-x64`. WebAssembly runs everywhere. */
  platform: z.string().optional(),
});

const manifestSchema = z.object({
  format: z.literal('lutra-artifact'),
  version: z.int(),
  /** Version of lutra that wrote it. */
  compiler: z.string(),
  name: z.string(),
  /** What `lutra inspect` shows: architecture, sizes, parameter counts. */
  model: z.record(z.string(), z.unknown()),
  needs: z.object({
    arenaBytes: z.int().positive(),
    cacheBytes: z.int().nonnegative(),
    vocab: z.int().positive(),
    logitsStride: z.int().positive(),
    scans: z.boolean().optional(),
  }),
  context: z.int().positive(),
  /** The target it was asked for: `auto`, `wasm`, `c`, `c:avx2`. */
  target: z.string(),
  code: z.array(codeSchema),
  files: z.record(z.string(), fileSchema),
});

export type Manifest = z.infer<typeof manifestSchema>;
export type CodeEntry = z.infer<typeof codeSchema>;

/** Reads and checks the text of a manifest; `where` is its path, for messages. */
export function parseManifest(text: string, where: string): Manifest {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new LutraError('invalid', `${where} is not JSON`, { cause, hint: 'Compile the model again.' });
  }
  const version = (json as { version?: unknown } | null)?.version;
  if (typeof version === 'number' && version !== ARTIFACT_VERSION) {
    throw new LutraError(
      'unsupported',
      `${where} has artifact version ${version}; this lutra reads version ${ARTIFACT_VERSION}`,
      {
        hint:
          version < ARTIFACT_VERSION
            ? 'Compile the model again.'
            : 'Update lutra, or compile the model again with this version.',
      },
    );
  }
  const parsed = manifestSchema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new LutraError('invalid', `${where}: ${issue?.path.join('.') || 'manifest'}: ${issue?.message}`, {
      hint: 'The artifact is damaged: compile the model again.',
    });
  }
  for (const file of Object.keys(parsed.data.files)) {
    if (file.startsWith('/') || file.split(/[\\/]/).includes('..')) {
      throw new LutraError('invalid', `${where} names a file outside the artifact: ${file}`);
    }
  }
  const { code, files } = parsed.data;
  const missing = code.find(({ file }) => !Object.hasOwn(files, file));
  if (missing !== undefined) {
    throw new LutraError('invalid', `${where} has code in ${missing.file}, which is not among its files`, {
      hint: 'The artifact is damaged: compile the model again.',
    });
  }
  return parsed.data;
}

/** What an executable must know of a plan. */
export function memoryNeeds(plan: Plan): Manifest['needs'] {
  const { arenaBytes, cacheBytes, vocab, logitsStride, scans } = plan;
  return { arenaBytes, cacheBytes, vocab, logitsStride, scans };
}
