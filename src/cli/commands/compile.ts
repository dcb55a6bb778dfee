import { type Command, Option } from 'commander';
import { openArtifact } from '../../artifact/open.ts';
import { pick } from '../arguments.ts';
import type { Deps } from '../deps.ts';
import { interruptible } from '../io.ts';
import { addModelOptions, MODEL_HELP, type ModelOptions, modelSource } from '../model-options.ts';
import { createProgressBar } from '../progress.ts';
import { byteSize } from '../render.ts';

interface CompileFlags extends ModelOptions {
  readonly output: string;
  readonly head?: 'stored' | 'int8';
  readonly cache?: 'f32' | 'f16';
  readonly records?: string;
  readonly json?: true;
}

/** `lutra compile MODEL -o DIR`: what is deployed. */
export function addCompileCommand(program: Command, deps: Deps): void {
  const command = program
    .command('compile')
    .description('compile a checkpoint into a folder that can be deployed')
    .argument('[model]', MODEL_HELP, 'embedded')
    .requiredOption('-o, --output <dir>', 'the folder to write');
  addModelOptions(command)
    .addOption(
      new Option('--head <form>', 'the output head: as stored, or 8 bits a weight (not lossless)').choices([
        'stored',
        'int8',
      ]),
    )
    .addOption(
      new Option('--cache <type>', 'elements of the KV cache; f16 is half the size and not lossless').choices(
        ['f32', 'f16'],
      ),
    )
    .option('--records <file>', 'tuning records to take schedules from (default: those of this computer)')
    .option('--json', 'print one JSON object')
    .action((model: string, flags: CompileFlags) => compileModel(deps, model, flags));
}

async function compileModel(deps: Deps, model: string, flags: CompileFlags): Promise<void> {
  const { io } = deps;
  const start = performance.now();
  const bar = createProgressBar(io);
  const path = await interruptible(io, (signal) =>
    deps.compile(modelSource(model), {
      ...pick(flags, ['output', 'target', 'threads', 'context', 'head', 'cache', 'records']),
      signal,
      onProgress: bar.update,
      onWarning: bar.warn,
    }),
  ).finally(() => bar.clear());
  const seconds = Number(((performance.now() - start) / 1000).toFixed(3));
  const { manifest } = await openArtifact(path);
  const bytes = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0);
  const targets = manifest.code.flatMap(({ machines }) => machines);
  if (flags.json) {
    io.out(`${JSON.stringify({ model: manifest.name, output: path, targets, bytes, seconds })}\n`);
  } else {
    io.out(
      `${manifest.name} in ${path}: ${byteSize(bytes)} for ${targets.join(', ')}; ${seconds.toFixed(1)} s\n`,
    );
  }
}
