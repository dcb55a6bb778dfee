import { resolve } from 'node:path';
import type { Artifact } from '../artifact/open.ts';
import { type Standalone, writeStandalone } from '../artifact/standalone.ts';
import { LutraError } from '../common/errors.ts';
import { type Arch, machinesFor } from '../targets/c/machines.ts';
import { detectCpu } from '../targets/cpu.ts';
import { createTokenizer } from '../text/tokenizer.ts';
import { chooseTuned } from '../tune/choose.ts';
import { artifactOf } from './artifact-of.ts';
import type { CompileOptions } from './compile.ts';
import { textOf } from './loading.ts';

export interface StandaloneCompileOptions
  extends Omit<CompileOptions, 'output' | 'target' | 'extend' | 'arch'> {
  /** The folder to write. */
  readonly output: string;
  /** `arm64`, `aarch64`, `x64`, `x86_64`, a triple that begins with one of them, or `any`. Default: this machine's. */
  readonly arch?: string;
}

const ARCHITECTURES: ReadonlyMap<string, Arch | 'any'> = new Map([
  ['x64', 'x64'],
  ['x86_64', 'x64'],
  ['x86-64', 'x64'],
  ['amd64', 'x64'],
  ['arm64', 'arm64'],
  ['aarch64', 'arm64'],
  ['any', 'any'],
]);

/** The architecture a name or a triple (`aarch64-linux-gnu`) means. Throws `usage` for another. */
export function parseArch(name: string): Arch | 'any' {
  const lower = name.toLowerCase();
  const found = ARCHITECTURES.get(lower) ?? ARCHITECTURES.get(lower.split('-')[0]!);
  if (found !== undefined) return found;
  throw new LutraError('usage', `unknown architecture ${name}`, {
    hint: 'Architectures are x64, arm64 (or a triple such as aarch64-linux-gnu) and any: portable C.',
  });
}

/** The tokens that end a text; none where the model brings no tokenizer. */
function endTokens(artifact: Artifact): readonly number[] {
  if (!artifact.textFiles.has('tokenizer.json')) return [];
  return [...createTokenizer(textOf(artifact)).eos].sort((a, b) => a - b);
}

/** `what` says how to come by another head. */
function noScan(what: string): LutraError {
  return new LutraError(
    'unsupported',
    'a standalone project has no exact head: it always reads the whole one',
    {
      hint: `${what} --head stored, whose output is the same, or int8, int6 or int4, which read fewer bytes.`,
    },
  );
}

/**
 * Compiles a model (or takes a compiled one) and writes it as a C project for a device without Node: library,
 * command, weights, CMakeLists.txt. Throws what `compile` throws.
 */
export async function compileStandalone(
  source: string,
  options: StandaloneCompileOptions,
): Promise<Standalone> {
  const { output, arch: asked = process.arch, ...rest } = options;
  const arch = options.arch === undefined && !ARCHITECTURES.has(asked) ? 'any' : parseArch(asked);
  if (options.head === 'exact') throw noScan('Choose');
  const artifact = await artifactOf(source, { ...rest, arch });
  if (artifact.plan.scans) throw noScan('Compile the checkpoint it was made from, with');
  const machines = machinesFor(arch).map(({ name }) => name);
  const { tuned = await chooseTuned(machines, await detectCpu(), artifact.manifest.name, options.records) } =
    options;
  return writeStandalone(artifact, {
    output: resolve(output),
    arch,
    endTokens: endTokens(artifact),
    tuned,
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
}
