import { createHash } from 'node:crypto';
import { join, resolve } from 'node:path';
import { type BuildOptions, buildArtifact, type Draft } from '../artifact/build.ts';
import { cacheFolder, fingerprintFolder } from '../artifact/cache.ts';
import { ARTIFACT_VERSION, memoryNeeds } from '../artifact/manifest.ts';
import { type Artifact, isArtifact, openArtifact } from '../artifact/open.ts';
import { runSteps } from '../artifact/self-test.ts';
import { LutraError } from '../common/errors.ts';
import { VERSION } from '../common/version.ts';
import { PLANE_BITS } from '../encodings/bit-planes.ts';
import type { CacheElem } from '../kernels/cache.ts';
import type { TableForm } from '../kernels/lut/tables.ts';
import type { Machine, NativeOp } from '../loops/machine.ts';
import { modelName } from '../models/decoder.ts';
import type { ModelInfo } from '../models/info.ts';
import type { WeightOptions } from '../models/quantization.ts';
import type { Family, TernaryEncoding } from '../passes/pass.ts';
import type { TunedSchedule } from '../plan/types.ts';
import { startFirstSound } from '../runtime/first-sound.ts';
import { detectHost } from '../runtime/load.ts';
import { startExecutable } from '../runtime/start.ts';
import { candidates, checkTarget, defaultThreads, type Host, nativeMachines } from '../runtime/targets.ts';
import { rememberVerified } from '../runtime/verified.ts';
import { hasCompiler } from '../targets/c/compile.ts';
import { machinesFor, runnableMachines } from '../targets/c/machines.ts';
import { chooseTuned } from '../tune/choose.ts';
import { type ActivationOptions, needByteSums } from './activations.ts';
import type { CacheForm, CompileOptions } from './compile-options.ts';
import { fetchModel } from './fetch-model.ts';
import { idleOptions, refuseEncodedLookups, refuseIdleRounding } from './ignored-options.ts';

export type { CacheForm, CompileOptions } from './compile-options.ts';

export function cacheElement(form: CacheForm = 'f32'): CacheElem {
  return form === 'int8' ? 'i8' : form;
}

/** C machines to compile for: all of this architecture for an artifact that may travel, else those of this CPU. */
async function chooseNative(target: string, host: Host, travels: boolean): Promise<readonly string[]> {
  const here = nativeMachines(target, host.cpu);
  if (here.length === 0) return [];
  if (target === 'auto' && !(await hasCompiler())) return [];
  if (target.startsWith('c:') || !travels) return here;
  return machinesFor(host.cpu.arch).map((machine) => machine.name);
}

/** What `encoding: 'auto'` means for a model on this computer. */
export function chooseTernary(
  native: readonly string[],
  { cpu }: Host,
  { parameters }: ModelInfo,
): TernaryEncoding {
  const hasTables = runnableMachines(cpu).some(
    ({ name }) => name === 'c:avx512vbmi' && native.includes(name),
  );
  return hasTables && parameters.ternary / 4 > cpu.caches.l3 ? 't5b' : 'i2';
}

const TABLES: Readonly<Record<Exclude<Family, 'mad'>, TableForm>> = {
  lut: 'exact',
  'lut-int8': 'int8',
  'lut-fast': 'fast',
  popcount: 'bits',
};

/** Which codes are looked up, and in which tables; `first` is the machine that code will mostly run on. */
export function chooseLookup(
  family: 'auto' | Family,
  first: Machine | undefined,
): NonNullable<BuildOptions['lookup']> {
  if (family === 'mad') return { bits: [], tables: 'exact' };
  if (family !== 'auto') return { bits: PLANE_BITS, tables: TABLES[family] };
  const has = (op: NativeOp) => first === undefined || first.native.has(op);
  // Measured: see docs/benchmarks.md, "Table lookups".
  return { bits: has('dot4') || !has('lookup16') ? [] : [1], tables: 'exact' };
}

/** Of the tuned schedules, those whose encodings weights are to have: of the first machine, where no option says other. */
function reencodable(
  tuned: readonly TunedSchedule[],
  first: Machine | undefined,
  { encoding = 'auto', family = 'auto' }: CompileOptions,
): readonly TunedSchedule[] {
  const isFree = ({ op, family: own }: TunedSchedule) => {
    if (op === 'lowbit.matmul.group') return family === 'auto';
    if (op !== 'lowbit.matmul' || encoding !== 'auto') return false;
    return own === 'lut' ? family === 'auto' : family !== 'lut';
  };
  return tuned.filter((choice) => choice.machine === first?.name && isFree(choice));
}

/** Runs a draft on the best of its code that passes the kernel tests; tells which that was. */
async function digestSteps(
  draft: Draft,
  steps: readonly (readonly number[])[],
  host: Host,
  options: CompileOptions,
  onTested: (candidate: string) => void,
): Promise<string> {
  const { path, plan, code, kernelTests } = draft;
  const runnable = { path, needs: memoryNeeds(plan), code };
  const threads = options.threads ?? defaultThreads(host.cpu);
  const { signal } = options;
  const executable = await startFirstSound(
    candidates(options.target ?? 'auto', code, host),
    {
      start: (candidate) => startExecutable(runnable, candidate, threads, signal),
      kernels: kernelTests,
      ...(signal && { signal }),
    },
    options.onWarning,
    { isTrusted: async () => false, passed: async ({ machine, label = machine }) => onTested(label) },
  );
  const stop = () => executable.stop?.();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    return await runSteps(executable, steps, signal);
  } finally {
    signal?.removeEventListener('abort', stop);
    await executable.close();
  }
}

/** Those of the options that say what to make of weights, as far as they are given; throws `usage` where they clash. */
export function weightOptions(options: Omit<WeightOptions, 'byteSums'> & ActivationOptions): WeightOptions {
  const { bits, group, symmetric, activations } = options;
  return {
    ...(needByteSums(options) ? { byteSums: true } : {}),
    ...(bits === undefined ? {} : { bits }),
    ...(group === undefined ? {} : { group }),
    ...(symmetric === undefined ? {} : { symmetric }),
    ...(activations === undefined ? {} : { activations }),
  };
}

/** Where a compiled checkpoint is kept: named by everything its content depends on. */
async function cachePath(
  folder: string,
  native: readonly string[],
  tuned: readonly TunedSchedule[],
  elsewhere: string | undefined,
  options: CompileOptions,
): Promise<string> {
  const { target = 'auto', context, cache = 'f32', head = 'stored', encoding = 'auto' } = options;
  const { bits, group, symmetric, activations, family = 'auto' } = options;
  const facts = [
    VERSION,
    ARTIFACT_VERSION,
    await fingerprintFolder(folder),
    native,
    target,
    context,
    cache,
    head,
    [bits, group, symmetric, activations],
    encoding,
    family,
    tuned,
    elsewhere,
  ];
  const key = createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 32);
  return join(cacheFolder(), 'models', key);
}

/** The artifact that the cache has. One that is damaged, as a power failure leaves it, is told of, and none. */
async function openCached(
  path: string,
  onWarning: CompileOptions['onWarning'],
): Promise<Artifact | undefined> {
  if (!(await isArtifact(path))) return undefined;
  try {
    return await openArtifact(path);
  } catch (error) {
    if (!(error instanceof LutraError) || error.code !== 'invalid') throw error;
    onWarning?.(`the compiled model in the cache is damaged and is made again: ${error.message}`);
    return undefined;
  }
}

/**
 * Compiles a model and returns the folder of the artifact. `source` is a checkpoint folder, `hf:org/name`
 * or `org/name`. Throws what is wrong with the checkpoint, the options or the machine, by name; leaves
 * nothing half-written, also when cancelled.
 */
export async function compile(source: string, options: CompileOptions = {}): Promise<string> {
  return (await compiledArtifact(source, options)).path;
}

/** The same, and the artifact, opened. */
export async function compiledArtifact(source: string, options: CompileOptions): Promise<Artifact> {
  const { target = 'auto', encoding = 'auto', signal, onProgress } = options;
  checkTarget(target);
  refuseIdleRounding(options);
  refuseEncodedLookups(options);
  const weights = weightOptions(options);
  const folder = await fetchModel(source, options);
  const host = await detectHost();
  const native = await chooseNative(target, host, options.output !== undefined);
  if (options.extend !== undefined && options.output === undefined) {
    // What a user's functions compute has no name that a cache could go by.
    throw new LutraError('usage', 'a model with custom operators needs an output folder', {
      hint: 'Set `output`.',
    });
  }
  const machines = [...native, ...host.wasm.map(({ name }) => name)];
  const { arch } = options;
  const foreign = arch !== undefined && arch !== host.cpu.arch ? machinesFor(arch)[0] : undefined;
  // What was tuned here says nothing of weights that go elsewhere.
  const found =
    foreign === undefined ? await chooseTuned(machines, host.cpu, modelName(folder), options.records) : [];
  const tuned = options.tuned ?? found;
  if (
    foreign === undefined &&
    options.records !== undefined &&
    options.tuned === undefined &&
    tuned.length === 0
  ) {
    options.onWarning?.(`${options.records} has nothing that was adopted for ${machines.join(', ')}`);
  }
  const output =
    options.output === undefined
      ? await cachePath(folder, native, tuned, foreign?.name, options)
      : resolve(options.output);
  const cached = options.output === undefined ? await openCached(output, options.onWarning) : undefined;
  if (cached !== undefined) return cached;
  const lacksCompiler = target === 'auto' && native.length === 0 && runnableMachines(host.cpu).length > 0;
  // With `arch` it is compiled elsewhere.
  if (lacksCompiler && options.arch === undefined) {
    options.onWarning?.(
      'there is no C compiler, so the model becomes WebAssembly, which is slower than native code; clang or gcc will do',
    );
  }
  const first =
    foreign ??
    runnableMachines(host.cpu).find(({ name }) => native.includes(name)) ??
    host.wasm.find(({ name }) => name === target) ??
    host.wasm[0];
  const verified = ['files'];
  await buildArtifact(folder, output, {
    target,
    nativeMachines: native,
    tuned,
    reencode: reencodable(tuned, first, options),
    cacheElem: cacheElement(options.cache),
    head: options.head ?? 'stored',
    weights,
    ternary: (info) => {
      if (encoding !== 'auto') return encoding;
      if (options.family === 'lut') return 'bit-planes';
      return foreign === undefined ? chooseTernary(native, host, info) : 'i2';
    },
    lookup: chooseLookup(options.family ?? 'auto', first),
    ...(options.context === undefined ? {} : { context: options.context }),
    ...(options.extend === undefined ? {} : { extend: options.extend }),
    ...(signal === undefined ? {} : { signal }),
    digestSteps: (draft, steps) => digestSteps(draft, steps, host, options, (t) => verified.push(t)),
    onProgress: (stage, done, total) => onProgress?.({ stage, done, total }),
  });
  // Hashed and tested while it was made: the first load need not do it again.
  const artifact = await openArtifact(output);
  for (const what of verified) await rememberVerified(output, artifact.manifest, what, host.cpu);
  for (const what of idleOptions(artifact, options)) options.onWarning?.(what);
  return artifact;
}
