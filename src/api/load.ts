import { LutraError } from '../common/errors.ts';
import { startArtifact } from '../runtime/load.ts';
import { checkTarget } from '../runtime/targets.ts';
import type { LoadOptions, Model } from '../runtime/types.ts';
import { artifactOf } from './artifact-of.ts';
import type { CompileOptions } from './compile.ts';
import { checkMaxBatch, checkThreads, textOf } from './loading.ts';
import { LoadedModel, type ModelFacts } from './model.ts';

/**
 * Loads a model: an artifact as it is, a checkpoint after compiling it into the cache. `source` is the
 * folder of either, a GGUF file, `hf:org/name`, `org/name`, or `embedded`: the small model that comes with lutra.
 */
export async function load(
  source: string,
  options: LoadOptions & Pick<CompileOptions, 'cache' | 'head'> = {},
): Promise<Model> {
  const { target = 'auto', threads, maxBatch, hugePages, signal, onWarning } = options;
  checkTarget(target);
  checkThreads(threads);
  checkMaxBatch(maxBatch);
  const artifact = await artifactOf(source, options);
  const { vocab, hidden } = artifact.manifest.model;
  if (artifact.manifest.needs.vocab === hidden && vocab !== hidden) {
    throw new LutraError(
      'usage',
      `${source} was compiled without an output head, so that it writes no text`,
      {
        hint: 'Use it by loadEmbedder or lutra embed.',
      },
    );
  }
  const executable = await startArtifact(artifact, {
    ...(target === 'auto' ? {} : { target }),
    ...(threads === undefined ? {} : { threads }),
    ...(hugePages === undefined ? {} : { hugePages }),
    ...(onWarning === undefined ? {} : { onWarning }),
    ...(signal === undefined ? {} : { signal }),
  });
  const { manifest } = artifact;
  const facts: ModelFacts = {
    name: manifest.name,
    context: manifest.context,
    vocab: manifest.needs.vocab,
    scans: manifest.needs.scans ?? false,
    text: textOf(artifact),
  };
  return new LoadedModel(executable, facts, maxBatch);
}
