import { LutraError } from '../common/errors.ts';
import type { CacheHandle, Logits, SelectLogits } from '../targets/executable.ts';
import type { Stepper } from './scheduler.ts';

/** Tokens per step where every token's logits are wanted, so that they stay a few megabytes. */
const ALL_LOGITS_STEP = 16;
/** Tokens per step of a long prompt: the grain at which it can be cancelled. */
const PREFILL_STEP = 256;

/** Of a chunk that is not the last, no logits matter. */
const NOTHING: SelectLogits = () => new Int32Array(0);

/** One sequence of tokens on a loaded program: its KV cache and how far it is filled. */
export class Sequence {
  readonly #stepper: Stepper;
  readonly #cache: CacheHandle;
  readonly #context: number;
  readonly #vocab: number;
  /** Tokens there are: as many as there are logits, unless the model has no output head. */
  readonly #tokenLimit: number;
  readonly #tokens: number[] = [];
  #freed = false;

  /** `vocab`: values of an output. */
  constructor(stepper: Stepper, context: number, vocab: number, tokenLimit = vocab) {
    this.#stepper = stepper;
    this.#context = context;
    this.#vocab = vocab;
    this.#tokenLimit = tokenLimit;
    this.#cache = stepper.createCache();
  }

  /** Positions the cache holds. */
  get context(): number {
    return this.#context;
  }

  /** The tokens whose keys and values are in the cache. */
  get tokens(): readonly number[] {
    return this.#tokens;
  }

  /**
   * Appends tokens. Returns logits: [vocab] of the last one, or [tokens, vocab] of all. Throws `usage` when
   * the context cannot hold them or a token is not in the vocabulary, `cancelled` between steps.
   */
  async forward(
    tokens: Int32Array | readonly number[],
    logits: 'last' | 'all',
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    this.#check(tokens);
    const step = logits === 'all' ? ALL_LOGITS_STEP : PREFILL_STEP;
    const inSteps = logits === 'all' && tokens.length > step;
    const all = inSteps ? new Float32Array(tokens.length * this.#vocab) : undefined;
    let last: Float32Array = new Float32Array(0);
    for (let at = 0; at < tokens.length; at += step) {
      if (signal?.aborted) throw new LutraError('cancelled', 'cancelled');
      const chunk = Int32Array.from(tokens.slice(at, at + step));
      const position = this.#tokens.length;
      last = await this.#stepper.step({ tokens: chunk, position, cache: this.#cache, logits });
      this.#tokens.push(...chunk);
      all?.set(last, at * this.#vocab);
    }
    return all ?? last;
  }

  /**
   * The same, but of each output only the logits that `select` chooses, where that saves work; without it, all.
   * Logits are of the last token, or of every one.
   */
  async forwardSelected(
    tokens: readonly number[],
    logits: 'last' | 'all',
    select: SelectLogits | undefined,
    signal?: AbortSignal,
  ): Promise<readonly Logits[]> {
    if (select === undefined) {
      const all = await this.forward(tokens, logits, signal);
      return Array.from({ length: all.length / this.#vocab }, (_, row) =>
        all.subarray(row * this.#vocab, (row + 1) * this.#vocab),
      );
    }
    this.#check(tokens);
    const step = logits === 'all' ? ALL_LOGITS_STEP : PREFILL_STEP;
    const rows: Logits[] = [];
    for (let at = 0; at < tokens.length; at += step) {
      if (signal?.aborted) throw new LutraError('cancelled', 'cancelled');
      const chunk = Int32Array.from(tokens.slice(at, at + step));
      const wanted = logits === 'all' || at + step >= tokens.length;
      const request = { tokens: chunk, position: this.#tokens.length, cache: this.#cache, logits };
      const found = await this.#stepper.stepSelected({ ...request, select: wanted ? select : NOTHING });
      if (wanted) rows.push(...found);
      this.#tokens.push(...chunk);
    }
    return rows;
  }

  /** Whoever was given these logits looks at them no more: their memory may serve a later step. */
  release(logits: Logits): void {
    const alone = logits instanceof Float32Array && logits.byteLength === logits.buffer.byteLength;
    if (alone) this.#stepper.recycle?.(logits);
  }

  #check(tokens: Int32Array | readonly number[]): void {
    if (this.#freed) throw new LutraError('usage', 'the session was disposed');
    if (tokens.length === 0) throw new LutraError('usage', 'forward needs at least one token');
    if (this.#tokens.length + tokens.length > this.#context) {
      throw new LutraError(
        'usage',
        `${tokens.length} tokens at position ${this.#tokens.length} do not fit the context of ${this.#context}`,
        { hint: 'Shorten the prompt, or load the model with a larger context.' },
      );
    }
    const wrong = tokens.find((t) => !Number.isInteger(t) || t < 0 || t >= this.#tokenLimit);
    if (wrong !== undefined) {
      throw new LutraError('usage', `token ${wrong} is not in the vocabulary of ${this.#tokenLimit}`);
    }
  }

  /** Forgets everything after the first `length` tokens. */
  rewind(length: number): void {
    if (!Number.isInteger(length) || length < 0 || length > this.#tokens.length) {
      throw new LutraError('usage', `cannot rewind ${this.#tokens.length} tokens to ${length}`);
    }
    this.#tokens.length = length;
  }

  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#cache.free();
  }
}
