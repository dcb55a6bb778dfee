import { type Artifact, isArtifact, openArtifact } from '../artifact/open.ts';
import { modelSource } from '../checkpoint/resolve.ts';
import { type CompileOptions, compiledArtifact } from './compile.ts';
import { refuseForCompiled } from './ignored-options.ts';

/**
 * The artifact that `source` is, or the one that compiling it gives. Throws what `compile` throws, and `usage` where
 * options say what an artifact is made into.
 */
export async function artifactOf(source: string, options: CompileOptions): Promise<Artifact> {
  const path = modelSource(source);
  if (!(await isArtifact(path))) return compiledArtifact(path, options);
  refuseForCompiled(source, options);
  return openArtifact(path);
}
