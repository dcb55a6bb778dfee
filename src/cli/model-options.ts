import { type Command, Option } from 'commander';
import type { CompileOptions } from '../api/compile.ts';
import { modelSource } from '../checkpoint/resolve.ts';
import type { Model } from '../runtime/types.ts';
import { pick, positiveInteger, threadCount } from './arguments.ts';
import type { Deps } from './deps.ts';
import type { ProgressBar } from './progress.ts';

export const MODEL_HELP =
  'embedded (the default), a checkpoint folder, a GGUF file, a compiled folder, or hf:org/name[/file.gguf][@revision]';

export interface ModelOptions extends Pick<CompileOptions, 'head' | 'cache'> {
  readonly target?: string;
  readonly threads?: number;
  readonly context?: number;
  readonly hugePages?: true;
}

export function addTargetOption(command: Command): Command {
  return command.addOption(
    new Option('--target <name>', 'auto (default), wasm, c, or one variant such as c:avx2'),
  );
}

export function addContextOption(command: Command): Command {
  return command.addOption(
    new Option('--context <n>', 'positions of the KV cache').argParser(positiveInteger('--context')),
  );
}

/** The options of every command that runs a model. */
export function addModelOptions(command: Command): Command {
  addTargetOption(command).addOption(
    new Option('-t, --threads <n>', 'threads (default: physical cores times 0.8)').argParser(
      threadCount('--threads'),
    ),
  );
  return addContextOption(command);
}

/** For commands that run a model to write text or to measure it. */
export function addHugePagesOption(command: Command): Command {
  return command.option(
    '--huge-pages',
    'copy weights into huge pages (native code on Linux): faster to decode, slower to load, more memory',
  );
}

/** Loads MODEL with a progress bar; warnings go to standard error. */
export async function loadModel(
  deps: Deps,
  model: string,
  options: ModelOptions,
  bar: ProgressBar,
  signal: AbortSignal,
): Promise<Model> {
  try {
    return await deps.load(modelSource(model), {
      ...pick(options, ['target', 'threads', 'context', 'head', 'cache', 'hugePages']),
      signal,
      onProgress: bar.update,
      onWarning: bar.warn,
    });
  } finally {
    bar.clear();
  }
}
