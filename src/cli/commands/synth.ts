import type { Command } from 'commander';
import { SYNTH_PRESETS, type SynthPreset } from '../../checkpoint/synth/presets.ts';
import { synthesize } from '../../checkpoint/synth.ts';
import { LutraError } from '../../common/errors.ts';
import { wholeNumber } from '../arguments.ts';
import type { Deps } from '../deps.ts';
import { withProgress } from '../progress.ts';

interface SynthFlags {
  readonly output: string;
  readonly seed: number;
  readonly json?: true;
}

/** `lutra synth MODEL -o DIR`: a checkpoint of a published model's shape with random weights. */
export function addSynthCommand(program: Command, deps: Deps): void {
  const presets = Object.keys(SYNTH_PRESETS);
  program
    .command('synth')
    .description("write a checkpoint of a published model's true shape with random weights")
    .argument('<model>', presets.join(', '))
    .requiredOption('-o, --output <dir>', 'the folder to write, empty or new')
    .option('--seed <n>', 'other weights', wholeNumber('--seed'), 0)
    .option('--json', 'print one JSON object')
    .action(async (model: string, flags: SynthFlags) => {
      if (!isPreset(model)) {
        throw new LutraError('usage', `there is no shape named ${model}`, {
          hint: `There are ${presets.join(', ')}.`,
        });
      }
      await synth(deps, model, flags);
    });
}

function isPreset(model: string): model is SynthPreset {
  return Object.hasOwn(SYNTH_PRESETS, model);
}

async function synth(deps: Deps, preset: SynthPreset, { output, seed, json }: SynthFlags): Promise<void> {
  let bytes = 0;
  const { seconds } = await withProgress(deps.io, ({ signal, onProgress }) =>
    synthesize(preset, output, {
      seed,
      signal,
      onProgress: (done, total) => {
        bytes = total;
        onProgress({ stage: 'write', done, total });
      },
    }),
  );
  deps.io.out(
    json
      ? `${JSON.stringify({ model: preset, output, bytes, seconds })}\n`
      : `${preset} in ${output}: ${(bytes / 1e9).toFixed(2)} GB of random weights, ${seconds.toFixed(1)} s\n`,
  );
}
