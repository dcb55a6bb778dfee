import { type Artifact, isArtifact, openArtifact } from '../artifact/open.ts';
import { modelSource } from '../checkpoint/resolve.ts';
import { LutraError } from '../common/errors.ts';
import { type CompileOptions, compile } from './compile.ts';

/**
 * The artifact that `source` is, or the one that compiling it gives. Throws what `compile` throws, and `usage` where
 * options ask for another context than an artifact has.
 */
export async function artifactOf(source: string, options: CompileOptions): Promise<Artifact> {
  const path = modelSource(source);
  const compiled = await isArtifact(path);
  if (compiled && options.context !== undefined) {
    throw new LutraError('usage', `${source} is compiled: its context is fixed`, {
      hint: 'Give the checkpoint it was made from, or compile that again with another context.',
    });
  }
  return openArtifact(compiled ? path : await compile(path, options));
}
