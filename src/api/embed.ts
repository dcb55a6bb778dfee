import { LutraError } from '../common/errors.ts';
import { startArtifact } from '../runtime/load.ts';
import { StepScheduler } from '../runtime/scheduler.ts';
import { Sequence } from '../runtime/sequence.ts';
import { checkTarget } from '../runtime/targets.ts';
import type { LoadOptions } from '../runtime/types.ts';
import type { Executable } from '../targets/executable.ts';
import { createTokenizer, type Tokenizer } from '../text/tokenizer.ts';
import { artifactOf } from './artifact-of.ts';
import type { CompileOptions } from './compile.ts';
import { textOf } from './loading.ts';

/** A model without its output head, which turns texts into vectors. */
export interface Embedder extends AsyncDisposable {
  readonly name: string;
  /** The target that runs it, after fallbacks. */
  readonly target: string;
  /** Numbers of a vector. */
  readonly dimensions: number;
  /** Tokens of the longest text, its end among them. */
  readonly context: number;
  /**
   * The final activations of the text's last token, which is the one that ends texts where the model has one, of
   * length 1 (L2). Dot products of such vectors are cosine similarities. Throws `usage` for a text that is empty or too long.
   */
  embed(text: string, signal?: AbortSignal): Promise<Float32Array>;
  dispose(): Promise<void>;
}

/** x over its Euclidean length; a vector of zeros stays. */
function normalized(x: Float32Array): Float32Array {
  const length = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
  return length === 0 ? x : x.map((v) => v / length);
}

class LoadedEmbedder implements Embedder {
  readonly name: string;
  readonly context: number;
  readonly dimensions: number;
  readonly #executable: Executable;
  readonly #sequence: Sequence;
  readonly #tokenizer: Tokenizer;
  /** Texts have one KV cache between them, and take turns. */
  #last: Promise<unknown> = Promise.resolve();
  #disposed = false;

  constructor(
    executable: Executable,
    tokenizer: Tokenizer,
    facts: Pick<Embedder, 'name' | 'context' | 'dimensions'> & { readonly vocab: number },
  ) {
    this.name = facts.name;
    this.context = facts.context;
    this.dimensions = facts.dimensions;
    this.#executable = executable;
    this.#tokenizer = tokenizer;
    const scheduler = new StepScheduler(executable, 1);
    this.#sequence = new Sequence(scheduler, facts.context, facts.dimensions, facts.vocab);
  }

  get target(): string {
    return this.#executable.target;
  }

  embed(text: string, signal?: AbortSignal): Promise<Float32Array> {
    if (this.#disposed) return Promise.reject(new LutraError('usage', `the model ${this.name} was disposed`));
    const result = this.#last.then(async () => {
      if (text === '') throw new LutraError('usage', 'the text is empty', { hint: 'Give some text.' });
      const tokens = this.#tokenizer.encode(text);
      const { endOfText } = this.#tokenizer;
      if (endOfText !== undefined && tokens.at(-1) !== endOfText) tokens.push(endOfText);
      this.#sequence.rewind(0);
      return normalized(await this.#sequence.forward(tokens, 'last', signal));
    });
    this.#last = result.catch(() => undefined);
    return result;
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.#last;
    this.#sequence.free();
    await this.#executable.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

/**
 * Loads a model to make vectors of texts: any that `load` takes, which then goes without its output head, BitNet
 * embedding models among them. An artifact must have been compiled with `head: 'none'`.
 */
export async function loadEmbedder(
  source: string,
  options: Omit<LoadOptions, 'maxBatch'> & Pick<CompileOptions, 'cache'> = {},
): Promise<Embedder> {
  const { target = 'auto', threads, signal, onWarning } = options;
  checkTarget(target);
  const artifact = await artifactOf(source, { ...options, head: 'none' });
  const { manifest } = artifact;
  const { vocab, hidden } = manifest.model as { readonly vocab: number; readonly hidden: number };
  if (manifest.needs.vocab !== hidden) {
    throw new LutraError('usage', `${source} was compiled with an output head`, {
      hint: 'Embed with the checkpoint it was made from.',
    });
  }
  const executable = await startArtifact(artifact, {
    ...(target === 'auto' ? {} : { target }),
    ...(threads === undefined ? {} : { threads }),
    ...(onWarning === undefined ? {} : { onWarning }),
    ...(signal === undefined ? {} : { signal }),
  });
  return new LoadedEmbedder(executable, createTokenizer(textOf(artifact)), {
    name: manifest.name,
    context: manifest.context,
    dimensions: hidden,
    vocab,
  });
}
