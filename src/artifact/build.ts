import { join } from 'node:path';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { parseObject } from '../checkpoint/json.ts';
import { openCheckpoint } from '../checkpoint/open.ts';
import { endWorkBy } from '../checkpoint/patience.ts';
import { LutraError } from '../common/errors.ts';
import { pause } from '../common/pause.ts';
import { VERSION } from '../common/version.ts';
import type { CodeBits, Graph } from '../graph/ir.ts';
import type { Registry } from '../graph/registry.ts';
import type { CacheElem } from '../kernels/cache.ts';
import type { TableForm } from '../kernels/lut/tables.ts';
import { roundingErrors, summarizeErrors } from '../models/group/round.ts';
import { importModel } from '../models/import.ts';
import type { ModelInfo } from '../models/info.ts';
import type { WeightOptions } from '../models/quantization.ts';
import type { HeadForm, PassOptions } from '../passes/pass.ts';
import { runPasses } from '../passes/pipeline.ts';
import { lookupTables } from '../plan/lookups.ts';
import { lowerProgram, type OperatorKernels, type Scheduling } from '../plan/lower.ts';
import { planModel } from '../plan/plan.ts';
import { tunedForms } from '../plan/products.ts';
import { streamedRanges } from '../plan/streamed.ts';
import type { Plan, PlanOptions, TunedSchedule } from '../plan/types.ts';
import { compileC, findCompiler } from '../targets/c/compile.ts';
import { type CVariant, emitC } from '../targets/c/emit.ts';
import { C_MACHINES } from '../targets/c/machines.ts';
import { emitWasm } from '../targets/wasm/emit.ts';
import { WASM_MACHINES } from '../targets/wasm/machines.ts';
import { PendingFolder } from './files.ts';
import {
  ARTIFACT_VERSION,
  C_FILE,
  type CodeEntry,
  MANIFEST_FILE,
  type Manifest,
  memoryNeeds,
  PLAN_FILE,
  SELF_TEST_FILE,
  TEXT_FOLDER,
  WEIGHTS_FILE,
} from './manifest.ts';
import { expectations, type KernelTests, type SelfTest, stepTokens } from './self-test.ts';
import { writeWeights } from './weights.ts';

/** Tokens computed at a time in prefill: enough to pay for unpacking weights, few enough to stay in cache. */
const BLOCK = 128;
const DEFAULT_CONTEXT = 2048;
const SELF_TEST_SEED = 20;

/** What a user adds to a model: a changed graph, the operators in it and their kernels. */
export interface Extension {
  readonly graph: Graph;
  readonly registry?: Registry;
  readonly kernels?: OperatorKernels;
}

/** Called with the imported graph, before the passes. */
export type Extend = (graph: Graph) => Extension;

export interface BuildOptions {
  /** Recorded in the manifest: what the artifact runs on unless told otherwise. */
  readonly target: string;
  /** C machines to generate native code for, best first; empty for none. */
  readonly nativeMachines: readonly string[];
  readonly context?: number;
  readonly cacheElem: CacheElem;
  readonly head: HeadForm;
  /** What to make of weights that are floats, and of activations in front of weights in groups. */
  readonly weights?: WeightOptions;
  /** How this model's ternary weights are kept; default `i2`. */
  readonly ternary?: (info: ModelInfo) => NonNullable<PassOptions['ternary']>;
  /** Codes that are looked up instead of multiplied by, and in which tables; default: none. */
  readonly lookup?: { readonly bits: readonly CodeBits[]; readonly tables: TableForm };
  readonly extend?: Extend;
  /** Schedules to take instead of kernels' defaults. */
  readonly tuned?: readonly TunedSchedule[];
  /** Those of them, of one machine, for which weights are encoded as they need it; default: none. */
  readonly reencode?: readonly TunedSchedule[];
  /** Runs the draft, kernels tested first, on these steps; the digest of their logits. */
  readonly digestSteps: (draft: Draft, steps: readonly (readonly number[])[]) => Promise<string>;
  readonly onProgress?: (stage: string, done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** An artifact under construction: complete but for what it must compute. */
export interface Draft {
  readonly path: string;
  readonly info: ModelInfo;
  readonly plan: Plan;
  readonly code: readonly CodeEntry[];
  readonly kernelTests: KernelTests;
}

/** A model after import, passes and planning: everything about it but weights and code. */
export interface PlannedModel {
  readonly imported: Graph;
  readonly graph: Graph;
  readonly info: ModelInfo;
  readonly plan: Plan;
  readonly kernels?: OperatorKernels;
}

/** Positions an artifact is made for. Throws `usage` when more are asked for than the model has. */
function chooseContext(asked: number | undefined, info: ModelInfo): number {
  if (asked === undefined) return Math.min(DEFAULT_CONTEXT, info.maxContext);
  if (!Number.isInteger(asked) || asked < 1 || asked > info.maxContext) {
    throw new LutraError('usage', `context must be 1 to ${info.maxContext} for ${info.name}, got ${asked}`);
  }
  return asked;
}

/** Imports a checkpoint and plans it, reading headers only. */
export function planCheckpoint(
  checkpoint: Checkpoint,
  options: Pick<
    BuildOptions,
    'context' | 'cacheElem' | 'head' | 'weights' | 'ternary' | 'lookup' | 'extend' | 'reencode'
  >,
): PlannedModel {
  // Models may be made for more positions when more are asked for.
  const { context: wanted } = options;
  const known = wanted !== undefined && Number.isInteger(wanted) && wanted > 0 ? { context: wanted } : {};
  const context = chooseContext(wanted, importModel(checkpoint, { ...options.weights, ...known }).info);
  const { graph: unextended, info } = importModel(checkpoint, { ...options.weights, context });
  const { graph: imported, registry, kernels } = options.extend?.(unextended) ?? { graph: unextended };
  const { head, cacheElem, lookup, reencode = [] } = options;
  const ternary = options.ternary?.(info) ?? 'i2';
  const passes = { head, ternary, lookup: lookup?.bits ?? [], ...(registry && { registry }) };
  const forms: PlanOptions = { context, block: BLOCK, cacheElem, ...(lookup && { tables: lookup.tables }) };
  const custom = new Set(kernels?.keys());
  let graph = runPasses(imported, passes);
  const { encodings, tables } = tunedForms(graph, forms, custom, reencode);
  if (encodings.size > 0) graph = runPasses(imported, { ...passes, encodings });
  const tablesOf = Object.keys(tables).length > 0 ? { tablesOf: tables } : {};
  const plan = planModel(graph, { ...forms, ...tablesOf }, custom);
  return { imported, graph, info, plan, ...(kernels === undefined ? {} : { kernels }) };
}

/** The C file of a plan, for these machines. */
export function generateC(plan: Plan, machines: readonly string[], scheduling: Scheduling = {}): string {
  const variants = C_MACHINES.filter((machine) => machines.includes(machine.name)).map((machine) => ({
    machine,
    program: lowerProgram(plan, machine, scheduling),
  }));
  return writeC(plan, variants);
}

function writeC(plan: Plan, variants: readonly CVariant[]): string {
  const { name, weightsBytes } = plan;
  return emitC(variants, {
    name,
    needs: memoryNeeds(plan),
    weightsBytes,
    streamed: streamedRanges(plan),
    lookups: lookupTables(plan),
  });
}

/** What has nothing of its own but the tables of `t5b`, beside the machine after it. */
const VBMI = 'c:avx512vbmi';

/** Of some machines, those whose code differs from the next one's. */
function machinesThatDiffer(
  machines: readonly string[],
  { weights }: Plan,
  tuned: readonly TunedSchedule[],
): readonly string[] {
  const differs = weights.some(({ encoding }) => encoding === 't5b') || tuned.some((t) => t.machine === VBMI);
  return differs || machines.length === 1 ? machines : machines.filter((name) => name !== VBMI);
}

/** What `generateC` gives, one machine after the other so that it can be cancelled. */
async function nativeSource(
  plan: Plan,
  scheduling: Scheduling,
  machines: readonly string[],
  signal: AbortSignal,
): Promise<string> {
  const variants: CVariant[] = [];
  for (const machine of C_MACHINES.filter(({ name }) => machines.includes(name))) {
    await pause(signal);
    variants.push({ machine, program: lowerProgram(plan, machine, scheduling) });
  }
  await pause(signal);
  return variants.length === 0 ? '' : writeC(plan, variants);
}

async function addNative(
  folder: PendingFolder,
  source: string,
  machines: readonly string[],
  signal: AbortSignal,
): Promise<CodeEntry[]> {
  if (machines.length === 0) return [];
  await folder.add(C_FILE, source);
  const platform = `${process.platform}-${process.arch}`;
  const file = `code/native-${platform}.so`;
  await compileC({
    compiler: await findCompiler(),
    source: join(folder.path, C_FILE),
    output: join(folder.path, file),
    variants: machines.length,
    signal,
  });
  await folder.adopt(file);
  return [{ file, machines: [...machines], platform }];
}

async function addWasm(
  folder: PendingFolder,
  plan: Plan,
  scheduling: Scheduling,
  signal: AbortSignal,
): Promise<CodeEntry[]> {
  const entries: CodeEntry[] = [];
  for (const machine of WASM_MACHINES) {
    await pause(signal);
    const program = lowerProgram(plan, machine, scheduling);
    await pause(signal);
    const file = `code/${machine.name.replace(':', '-')}.wasm`;
    await folder.add(file, emitWasm(program, machine, { shared: true }));
    entries.push({ file, machines: [machine.name] });
  }
  return entries;
}

/** The files a model's text needs at run time. */
async function addTexts(folder: PendingFolder, checkpoint: Checkpoint): Promise<void> {
  for (const [name, text] of checkpoint.textFiles) await folder.add(`${TEXT_FOLDER}/${name}`, text);
}

/** Throws `invalid` for texts that are no JSON: told now, and by the checkpoint's name, not when the model speaks. */
function checkTexts({ path, textFiles }: Checkpoint): void {
  for (const [name, text] of textFiles) if (name.endsWith('.json')) parseObject(text, join(path, name));
}

/** Everything of an artifact but the record of what it must compute and the manifest. */
async function writeContents(
  folder: PendingFolder,
  checkpoint: Checkpoint,
  options: BuildOptions,
): Promise<Draft> {
  checkTexts(checkpoint);
  const model = planCheckpoint(checkpoint, options);
  const { info, graph, plan, kernels } = model;
  const { tuned = [] } = options;
  const scheduling: Scheduling = { tuned, ...(kernels && { custom: kernels }) };
  // A C compiler works in its own process while weights are packed in this one.
  const stop = new AbortController();
  const signal = AbortSignal.any([stop.signal, ...(options.signal ? [options.signal] : [])]);
  const machinesOfC = machinesThatDiffer(options.nativeMachines, plan, tuned);
  const source = await nativeSource(plan, scheduling, machinesOfC, signal);
  const native = addNative(folder, source, machinesOfC, signal);
  let nativeFailure: unknown;
  native.catch((cause) => {
    nativeFailure = cause;
    stop.abort();
  });
  try {
    const wasm = await addWasm(folder, plan, scheduling, signal);
    folder.files[WEIGHTS_FILE] = await writeWeights(
      join(folder.path, WEIGHTS_FILE),
      plan,
      graph.constants,
      checkpoint,
      (done, total) => options.onProgress?.('compile', done, total),
      signal,
    );
    await addTexts(folder, checkpoint);
    await folder.add(PLAN_FILE, JSON.stringify(plan));
    const plainest = C_MACHINES.at(-1)!;
    const wanted = C_MACHINES.filter((m) => m === plainest || options.nativeMachines.includes(m.name));
    const machines = [...WASM_MACHINES, ...wanted];
    const kernelTests: KernelTests = {};
    for (const [kernel, test] of expectations(plan, machines, SELF_TEST_SEED, tuned)) {
      kernelTests[kernel] = test;
      await pause(signal);
    }
    const rounding = summarizeErrors(roundingErrors(checkpoint));
    const stored = { ...info, ...(rounding && { rounding }) };
    return { path: folder.path, info: stored, plan, code: [...(await native), ...wasm], kernelTests };
  } catch (error) {
    // The compiler's own failure, if it is what stopped the rest, says more than "cancelled".
    const cause = nativeFailure ?? error;
    stop.abort();
    await native.catch(() => undefined);
    throw cause;
  }
}

/**
 * Compiles the checkpoint in a folder into an artifact at `output`, which appears whole or not at all.
 * Throws what reading, importing and compiling throw; `cancelled` when the signal says so.
 */
export async function buildArtifact(source: string, output: string, options: BuildOptions): Promise<void> {
  const checkpoint = await openCheckpoint(source);
  if (options.signal !== undefined) endWorkBy(options.signal, checkpoint);
  try {
    const folder = await PendingFolder.create(output);
    try {
      const draft = await writeContents(folder, checkpoint, options);
      const { info, plan } = draft;
      const tokens = stepTokens(Math.min(plan.vocab, info.vocab), plan.options.context);
      const selfTest: SelfTest = {
        kernels: draft.kernelTests,
        steps: { tokens, digest: await options.digestSteps(draft, tokens) },
      };
      await folder.add(SELF_TEST_FILE, JSON.stringify(selfTest));
      const manifest: Manifest = {
        format: 'lutra-artifact',
        version: ARTIFACT_VERSION,
        compiler: VERSION,
        name: info.name,
        model: { ...info },
        needs: memoryNeeds(plan),
        context: plan.options.context,
        target: options.target,
        code: [...draft.code],
        files: folder.files,
      };
      await folder.add(MANIFEST_FILE, `${JSON.stringify(manifest, null, 2)}\n`);
      if (options.signal?.aborted) throw new LutraError('cancelled', 'compilation was cancelled');
      await folder.publish();
    } catch (error) {
      await folder.discard();
      throw error;
    }
  } finally {
    await checkpoint.close();
  }
}
