import { type Command, Option } from 'commander';
import { openArtifact } from '../../artifact/open.ts';
import { modelSource } from '../../checkpoint/resolve.ts';
import { LutraError } from '../../common/errors.ts';
import type { RoundingSummary } from '../../models/info.ts';
import { FAMILIES, TERNARY_ENCODINGS } from '../../passes/pass.ts';
import { pick } from '../arguments.ts';
import type { Deps } from '../deps.ts';
import { addModelOptions, MODEL_HELP } from '../model-options.ts';
import { withProgress } from '../progress.ts';
import { byteSize } from '../render.ts';
import { addFormOptions, formOptions } from '../weight-options.ts';
import { type CompileFlags, compileForDevice } from './compile-standalone.ts';

/** `lutra compile MODEL -o DIR`: what is deployed. */
export function addCompileCommand(program: Command, deps: Deps): void {
  const command = program
    .command('compile')
    .description('compile a checkpoint into a folder that can be deployed')
    .argument('[model]', MODEL_HELP, 'embedded')
    .requiredOption('-o, --output <dir>', 'the folder to write');
  addFormOptions(addModelOptions(command))
    .addOption(
      new Option(
        '--encoding <name>',
        'ternary weights in 2 bits (i2) or 1.6 (t5b): the same results; auto (default) takes what is faster here',
      ).choices(['auto', ...TERNARY_ENCODINGS]),
    )
    .addOption(
      new Option(
        '--family <name>',
        'ternary weights and those in groups, multiplied (mad) or looked up: lut (same output); of groups also lut-int8, lut-fast (not lossless); auto (default) takes what is faster here',
      ).choices(['auto', ...FAMILIES]),
    )
    .option('--standalone', 'a C project for a device without Node: library, command, weights')
    .option('--arch <name>', 'with --standalone: x64, arm64, a triple, or any (default: as this machine)')
    .option('--records <file>', 'tuning records to take schedules from (default: those of this computer)')
    .option('--json', 'print one JSON object')
    .action((model: string, flags: CompileFlags) =>
      flags.standalone ? compileForDevice(deps, model, flags) : compileModel(deps, model, flags),
    );
}

async function compileModel(deps: Deps, model: string, flags: CompileFlags): Promise<void> {
  if (flags.arch !== undefined) {
    throw new LutraError('usage', '--arch is for --standalone', {
      hint: 'What runs through Node is compiled for the machine at hand.',
    });
  }
  const { io } = deps;
  const { made: path, seconds } = await withProgress(io, (work) =>
    deps.compile(modelSource(model), {
      ...pick(flags, ['output', 'target', 'threads', 'context', 'encoding', 'family', 'records']),
      ...formOptions(flags),
      ...work,
    }),
  );
  const { manifest } = await openArtifact(path);
  const bytes = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0);
  const targets = manifest.code.flatMap(({ machines }) => machines);
  const rounding = manifest.model.rounding as RoundingSummary | undefined;
  if (flags.json) {
    const facts = { model: manifest.name, output: path, targets, bytes, seconds };
    io.out(`${JSON.stringify({ ...facts, ...(rounding && { rounding }) })}\n`);
  } else {
    io.out(
      `${manifest.name} in ${path}: ${byteSize(bytes)} for ${targets.join(', ')}; ${seconds.toFixed(1)} s\n`,
    );
    if (rounding !== undefined) io.out(roundingText(rounding));
  }
}

function roundingText({ tensors, mean, worst, worstTensor }: RoundingSummary): string {
  const error = (nmse: number) => nmse.toExponential(1);
  return `Rounding: normalized mean squared error ${error(mean)} on average of ${tensors} matrices, ${error(worst)} in ${worstTensor}\n`;
}
