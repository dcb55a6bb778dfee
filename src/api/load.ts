import { isArtifact, openArtifact } from '../artifact/open.ts';
import { LutraError } from '../common/errors.ts';
import { startArtifact } from '../runtime/load.ts';
import { checkTarget } from '../runtime/targets.ts';
import type { LoadOptions, Model } from '../runtime/types.ts';
import { type CompileOptions, compile } from './compile.ts';
import { checkMaxBatch, checkThreads, textOf } from './loading.ts';
import { LoadedModel, type ModelFacts } from './model.ts';

/**
 * Loads a model: an artifact as it is, a checkpoint after compiling it into the cache. `source` is the
 * folder of either, `hf:org/name` or `org/name`.
 */
export async function load(
  source: string,
  options: LoadOptions & Pick<CompileOptions, 'cache' | 'head'> = {},
): Promise<Model> {
  const { target = 'auto', threads, context, maxBatch, hugePages, signal, onWarning } = options;
  checkTarget(target);
  checkThreads(threads);
  checkMaxBatch(maxBatch);
  const compiled = await isArtifact(source);
  if (compiled && context !== undefined) {
    throw new LutraError('usage', `${source} is compiled: its context is fixed`, {
      hint: 'Compile it again with another --context.',
    });
  }
  const artifact = await openArtifact(compiled ? source : await compile(source, options));
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
    text: textOf(artifact),
  };
  return new LoadedModel(executable, facts, maxBatch);
}
