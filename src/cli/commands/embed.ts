import type { Command } from 'commander';
import { modelSource } from '../../checkpoint/resolve.ts';
import { pick } from '../arguments.ts';
import type { Deps } from '../deps.ts';
import { interruptible } from '../io.ts';
import { addModelOptions, MODEL_HELP, type ModelOptions } from '../model-options.ts';
import { createProgressBar } from '../progress.ts';

interface EmbedFlags extends ModelOptions {
  readonly json?: true;
}

/** `lutra embed MODEL TEXT...`: a vector of length 1 for every text. */
export function addEmbedCommand(program: Command, deps: Deps): void {
  const command = program
    .command('embed')
    .description('turn texts into vectors, whose dot products say how similar they are')
    .argument('<model>', MODEL_HELP)
    .argument('<text...>', 'texts, a vector for each');
  addModelOptions(command)
    .option('--json', 'print one JSON object')
    .action((model: string, texts: readonly string[], flags: EmbedFlags) => embed(deps, model, texts, flags));
}

async function embed(deps: Deps, model: string, texts: readonly string[], flags: EmbedFlags): Promise<void> {
  const bar = createProgressBar(deps.io);
  await interruptible(deps.io, async (signal) => {
    await using embedder = await deps
      .loadEmbedder(modelSource(model), {
        ...pick(flags, ['target', 'threads', 'context']),
        signal,
        onProgress: bar.update,
        onWarning: bar.warn,
      })
      .finally(() => bar.clear());
    const { name, target, dimensions } = embedder;
    const embeddings: number[][] = [];
    for (const text of texts) embeddings.push([...(await embedder.embed(text, signal))]);
    deps.io.out(
      flags.json
        ? `${JSON.stringify({ model: name, target, dimensions, embeddings })}\n`
        : embeddings.map((vector) => `${vector.map((x) => x.toFixed(6)).join(' ')}\n`).join(''),
    );
  });
}
