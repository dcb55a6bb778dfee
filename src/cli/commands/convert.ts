import { type Command, Option } from 'commander';
import { GGUF_ARCHITECTURES } from '../../api/convert/metadata.ts';
import { HEAD_TYPES } from '../../api/convert/tensors.ts';
import type { ConvertOptions, ConvertType } from '../../api/convert.ts';
import { I2S_ORDERS } from '../../checkpoint/gguf/ternary.ts';
import { modelSource } from '../../checkpoint/resolve.ts';
import { LutraError } from '../../common/errors.ts';
import { pick } from '../arguments.ts';
import type { Deps } from '../deps.ts';
import { MODEL_HELP } from '../model-options.ts';
import { withProgress } from '../progress.ts';
import { byteSize } from '../render.ts';

interface ConvertFlags extends Pick<ConvertOptions, 'type' | 'head' | 'architecture' | 'i2sOrder'> {
  readonly output: string;
  readonly json?: true;
}

const TYPES: readonly ConvertType[] = ['tq1_0', 'tq2_0', 'i2_s', 'q8_0'];

/** `lutra convert MODEL -o FILE.gguf`: a ternary model for other programs. */
export function addConvertCommand(program: Command, deps: Deps): void {
  program
    .command('convert')
    .description('write a ternary model as a GGUF file, which other programs read')
    .argument('[model]', MODEL_HELP, 'embedded')
    .requiredOption('-o, --output <file>', 'the GGUF file to write')
    .addOption(new Option('--type <type>', 'how weights are stored').choices(TYPES).default('tq2_0'))
    .addOption(
      new Option('--head <type>', 'how the embedding and the output head are stored')
        .choices(HEAD_TYPES)
        .default('f16'),
    )
    .addOption(
      new Option('--architecture <name>', 'what other programs take the model for').choices(
        GGUF_ARCHITECTURES,
      ),
    )
    .addOption(
      new Option('--i2s-order <name>', 'of a GGUF model: which bitnet.cpp packed its i2_s weights').choices(
        I2S_ORDERS,
      ),
    )
    .option('--json', 'print one JSON object')
    .action((model: string, flags: ConvertFlags) => convertModel(deps, model, flags));
}

async function convertModel(deps: Deps, model: string, flags: ConvertFlags): Promise<void> {
  const { io } = deps;
  if (!flags.output.endsWith('.gguf')) {
    throw new LutraError('usage', `the output ${flags.output} does not end in .gguf`, {
      hint: 'Programs go by the name: give -o FILE.gguf.',
    });
  }
  const { made, seconds } = await withProgress(io, (work) =>
    deps.convert(modelSource(model), flags.output, {
      ...pick(flags, ['type', 'head', 'architecture', 'i2sOrder']),
      ...work,
    }),
  );
  const { model: name, output, architecture, bytes } = made;
  io.out(
    flags.json
      ? `${JSON.stringify({ ...made, seconds })}\n`
      : `${name} in ${output}: ${flags.type}, architecture ${architecture}, ${byteSize(bytes)}; ${seconds.toFixed(1)} s\n`,
  );
}
