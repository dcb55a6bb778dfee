/** Compiled models in a browser: `import { load } from 'lutra/browser'`. */
import {
  MANIFEST_FILE,
  type Manifest,
  memoryNeeds,
  PLAN_FILE,
  parseManifest,
  SELF_TEST_FILE,
  TEXT_FOLDER,
  WEIGHTS_FILE,
} from '../artifact/manifest.ts';
import { selfTestSchema } from '../artifact/self-test.ts';
import { LutraError } from '../common/errors.ts';
import { lookupTables } from '../plan/lookups.ts';
import type { Plan } from '../plan/types.ts';
import { browserPlatform } from '../platform/browser.ts';
import { startFirstSound } from '../runtime/first-sound.ts';
import type { LoadOptions, Model } from '../runtime/types.ts';
import type { Executable } from '../targets/executable.ts';
import { createWasmExecutable } from '../targets/wasm/executable.ts';
import { detectWasmMachines } from '../targets/wasm/machines.ts';
import { checkMaxBatch, checkThreads, textOf } from './loading.ts';
import { LoadedModel } from './model.ts';

export { type ErrorCode, LutraError } from '../common/errors.ts';
export type {
  ChatMessage,
  FinishReason,
  GenerateOptions,
  Generation,
  GenerationResult,
  Model,
  SamplingOptions,
  Session,
} from '../runtime/types.ts';

export type BrowserLoadOptions = Pick<LoadOptions, 'threads' | 'maxBatch' | 'signal' | 'onWarning'>;

const DAMAGED = { hint: 'The artifact is damaged: compile the model again and copy its whole folder.' };

/** Fetches files of an artifact's folder. Throws `not-found`, or `environment` when there is no answer. */
function createReader(folder: URL, signal: AbortSignal | undefined) {
  return async (name: string): Promise<Response> => {
    const url = new URL(name, folder);
    const response = await fetch(url, signal === undefined ? {} : { signal }).catch((cause) => {
      signal?.throwIfAborted();
      throw new LutraError('environment', `cannot fetch ${url}: ${String(cause)}`, { cause });
    });
    if (response.ok) return response;
    throw new LutraError('not-found', `cannot fetch ${url}: status ${response.status}`, {
      hint: `Serve the whole folder that lutra compile wrote; its address is that of ${MANIFEST_FILE} without the name.`,
    });
  };
}

function parsePlan(text: string, manifest: Manifest): Plan {
  let plan: Plan | undefined;
  try {
    plan = JSON.parse(text) as Plan;
  } catch {
    // The same as a plan that belongs to something else.
  }
  if (plan === undefined || JSON.stringify(memoryNeeds(plan)) !== JSON.stringify(manifest.needs)) {
    throw new LutraError('invalid', `${PLAN_FILE} and ${MANIFEST_FILE} disagree`, DAMAGED);
  }
  return plan;
}

function parseSelfTest(text: string) {
  try {
    return selfTestSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new LutraError('invalid', `${SELF_TEST_FILE} is malformed`, { cause, ...DAMAGED });
  }
}

/** Processors that browsers report are threads: of many, every second is another core. */
function defaultThreads(): number {
  const { navigator } = globalThis as { readonly navigator?: { readonly hardwareConcurrency?: number } };
  const processors = navigator?.hardwareConcurrency ?? 1;
  return Math.max(1, Math.round(processors * (processors > 4 ? 0.5 : 0.8)));
}

/** Bytes of a file as `createWasmExecutable` reads them. The browser keeps large blobs on disk. */
async function readWeights(blob: Blob, offset: number, into: Uint8Array): Promise<void> {
  into.set(new Uint8Array(await blob.slice(offset, offset + into.length).arrayBuffer()));
}

/**
 * Loads a compiled model over HTTP and runs it in WebAssembly. `url` is that of the folder that `lutra compile`
 * wrote (for `--target wasm` or `auto`), relative to the page. Threads share their memory, so that a page that is
 * not cross-origin isolated has one, whatever `threads` says. Before the first session the code passes the artifact's self-test, every time.
 *
 * Throws `not-found` and `environment` where files or the engine are missing, `invalid` for a damaged artifact.
 */
export async function load(url: string | URL, options: BrowserLoadOptions = {}): Promise<Model> {
  const { signal, onWarning, maxBatch } = options;
  checkThreads(options.threads);
  checkMaxBatch(maxBatch);
  if (!browserPlatform.sharedMemory && options.threads !== 1) {
    onWarning?.(
      'this page may not share memory, so the model runs on one thread; for more, serve the page with ' +
        'Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp',
    );
  }
  const { location } = globalThis as { readonly location?: { readonly href: string } };
  const folder = new URL(`${String(url).replace(/\/$/, '')}/`, location?.href);
  const read = createReader(folder, signal);
  const text = async (name: string) => (await read(name)).text();

  const manifest = parseManifest(await text(MANIFEST_FILE), String(new URL(MANIFEST_FILE, folder)));
  const plan = parsePlan(await text(PLAN_FILE), manifest);
  const selfTest = parseSelfTest(await text(SELF_TEST_FILE));
  const prefix = `${TEXT_FOLDER}/`;
  const textNames = Object.keys(manifest.files).filter((name) => name.startsWith(prefix));
  const textFiles = new Map(
    await Promise.all(textNames.map(async (name) => [name.slice(prefix.length), await text(name)] as const)),
  );

  const codes = new Map(manifest.code.flatMap(({ file, machines }) => machines.map((name) => [name, file])));
  const chain = detectWasmMachines(browserPlatform).filter(({ name }) => codes.has(name));
  if (chain.length === 0) {
    throw new LutraError('environment', 'this browser runs nothing of this artifact', {
      hint: 'Compile it with --target wasm or auto, and use a browser with WebAssembly SIMD.',
    });
  }
  const weights = await (await read(WEIGHTS_FILE)).blob();
  const expected = manifest.files[WEIGHTS_FILE]?.bytes;
  if (weights.size !== expected) {
    throw new LutraError(
      'invalid',
      `${WEIGHTS_FILE} has ${weights.size} bytes instead of ${expected}`,
      DAMAGED,
    );
  }
  const start = async ({ machine }: { readonly machine: string }): Promise<Executable> =>
    createWasmExecutable({
      module: new Uint8Array(await (await read(codes.get(machine)!)).arrayBuffer()),
      target: machine,
      needs: manifest.needs,
      weights: {
        bytes: weights.size,
        read: (offset, into) => readWeights(weights, offset, into),
        lookups: lookupTables(plan),
      },
      threads: options.threads ?? defaultThreads(),
      platform: browserPlatform,
    });
  const executable = await startFirstSound(
    chain.map(({ name }) => ({ machine: name })),
    { start, kernels: selfTest.kernels, steps: selfTest.steps },
    onWarning,
    { isTrusted: async () => false, passed: async () => undefined },
  );
  const { name, context, needs } = manifest;
  const { vocab, scans = false } = needs;
  const facts = { name, context, vocab, scans, text: textOf({ path: String(folder), textFiles }) };
  return new LoadedModel(executable, facts, maxBatch);
}
