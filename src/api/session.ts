import { LutraError } from '../common/errors.ts';
import { type GuessCosts, GuessPolicy } from '../runtime/guess-policy.ts';
import { createLogitCounts } from '../runtime/logit-counts.ts';
import { Lookahead } from '../runtime/lookahead.ts';
import type { Sequence } from '../runtime/sequence.ts';
import type {
  ChatMessage,
  FinishReason,
  GenerateOptions,
  Generation,
  GenerationResult,
  Session,
} from '../runtime/types.ts';
import type { Logits } from '../targets/executable.ts';
import { createSampler, type Sampler } from '../text/sampler.ts';
import { resolveSampling } from '../text/sampling-options.ts';
import { createStopFilter, type StopFilter } from '../text/stop.ts';
import { createStreamDecoder } from '../text/stream-decoder.ts';
import type { ChatTemplate } from '../text/template.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { startGeneration } from './stream.ts';

/** What a session needs of its model. */
export interface SessionModel {
  readonly tokenizer: Tokenizer;
  /** Made when first needed, so that models without a template work with raw prompts. */
  template(): ChatTemplate;
  readonly context: number;
  readonly vocab: number;
  /** Whether the output head is `exact`. */
  readonly scans: boolean;
  /** What guessing costs: learned by all sessions. */
  readonly guessCosts: GuessCosts;
  /** generation_config.json, parsed. */
  readonly generationConfig: Readonly<Record<string, unknown>>;
}

const seconds = (since: number) => (performance.now() - since) / 1000;

/** A conversation on one KV cache. */
export class ModelSession implements Session {
  readonly #model: SessionModel;
  readonly #sequence: Sequence;
  readonly #onDispose: (session: ModelSession) => void;
  readonly #disposed = new AbortController();
  /** What was seen of guesses in this conversation. */
  readonly #guessing: GuessPolicy;
  #messages: readonly ChatMessage[] = [];
  /** Prompt and answer so far; the last token may not be in the cache yet. */
  #history: readonly number[] = [];
  /** The generation under way. */
  #running: Promise<unknown> | undefined;

  constructor(model: SessionModel, sequence: Sequence, onDispose: (session: ModelSession) => void) {
    this.#model = model;
    this.#guessing = new GuessPolicy(model.guessCosts);
    this.#sequence = sequence;
    this.#onDispose = onDispose;
  }

  get position(): number {
    return this.#sequence.tokens.length;
  }

  generate(prompt: string | readonly ChatMessage[], options: GenerateOptions = {}): Generation {
    // Errors of the request itself surface at the call, not at the first iteration.
    const tokens = this.#promptTokens(prompt, options);
    const sampler = createSampler(resolveSampling(options, this.#model.generationConfig));
    sampler.observe(tokens);
    const stops = createStopFilter(options.stop ?? []);
    const { maxTokens } = options;
    if (maxTokens !== undefined && (!Number.isInteger(maxTokens) || maxTokens < 1)) {
      throw new LutraError('usage', `maxTokens must be a positive integer, got ${maxTokens}`);
    }
    const { speculate = 0 } = options;
    if (!Number.isInteger(speculate) || speculate < 0 || speculate > 15) {
      throw new LutraError('usage', `speculate must be an integer from 0 to 15, got ${speculate}`);
    }

    if (this.#running !== undefined) {
      throw new LutraError('usage', 'the session is already generating', {
        hint: 'Wait for it, or create another session: they share the model.',
      });
    }
    const signals = [this.#disposed.signal, ...(options.signal === undefined ? [] : [options.signal])];
    const generation = startGeneration(async (emit, signal) => {
      try {
        const result = await this.#run(tokens, { ...options, signal }, sampler, stops, emit);
        this.#history = [...tokens, ...result.tokens];
        this.#remember(prompt, options, result.text);
        return result;
      } finally {
        this.#running = undefined;
      }
    }, signals);
    this.#running = generation.result.catch(() => undefined);
    return generation;
  }

  #promptTokens(prompt: string | readonly ChatMessage[], options: GenerateOptions): readonly number[] {
    const { tokenizer, context } = this.#model;
    if (prompt.length === 0) {
      throw new LutraError('usage', 'the prompt is empty', { hint: 'Give some text to answer or continue.' });
    }
    let tokens: readonly number[];
    if (typeof prompt === 'string' && options.raw === true) {
      const own = tokenizer.encode(prompt, { addSpecialTokens: this.#history.length === 0 });
      tokens = [...this.#history, ...own];
    } else {
      const messages = this.#conversation(prompt);
      // The template writes the special tokens itself.
      tokens = tokenizer.encode(this.#model.template().render(messages), { addSpecialTokens: false });
    }
    if (tokens.length >= context) {
      throw new LutraError('usage', `the prompt has ${tokens.length} tokens; the context holds ${context}`, {
        hint: 'Shorten the prompt, start a new session, or load the model with a larger context.',
      });
    }
    return tokens;
  }

  /** A text is the next message of the user; a list of messages is a conversation of its own. */
  #conversation(prompt: string | readonly ChatMessage[]): readonly ChatMessage[] {
    return typeof prompt === 'string' ? [...this.#messages, { role: 'user', content: prompt }] : prompt;
  }

  /** Rewinds to the longest common beginning; at least the last token is computed, for its logits. */
  #reuse(tokens: readonly number[]): readonly number[] {
    const cached = this.#sequence.tokens;
    let common = 0;
    while (common < cached.length && common < tokens.length - 1 && cached[common] === tokens[common])
      common++;
    this.#sequence.rewind(common);
    return tokens.slice(common);
  }

  async #run(
    promptTokens: readonly number[],
    options: GenerateOptions,
    sampler: Sampler,
    stops: StopFilter,
    emit: (piece: string) => void,
  ): Promise<GenerationResult> {
    const { tokenizer, context } = this.#model;
    const decoder = createStreamDecoder(tokenizer);
    const tokens: number[] = [];
    let text = '';
    const give = (piece: string) => {
      text += piece;
      if (piece !== '') emit(piece);
    };
    const start = performance.now();
    let prefillSeconds = 0;
    const finished = (finishReason: FinishReason): GenerationResult => ({
      text,
      tokens,
      finishReason,
      promptTokens: promptTokens.length,
      timings: { prefillSeconds, decodeSeconds: seconds(start) - prefillSeconds },
      ...counts.summary(),
      ...(options.speculate === undefined
        ? {}
        : { speculation: { proposed: lookahead?.proposed ?? 0, accepted: lookahead?.accepted ?? 0 } }),
    });
    let lookahead: Lookahead | undefined;
    let logits: Logits;
    const counts = createLogitCounts(this.#model.scans, this.#model.vocab);
    try {
      [logits] = (await this.#sequence.forwardSelected(
        this.#reuse(promptTokens),
        'last',
        sampler.select([]),
        options.signal,
      )) as [Logits];
    } catch (error) {
      if (error instanceof LutraError && error.code === 'cancelled') return finished('cancelled');
      throw error;
    }
    prefillSeconds = seconds(start);
    lookahead = new Lookahead(
      this.#sequence,
      logits,
      options.speculate ?? 0,
      (guesses) => sampler.select(guesses),
      this.#guessing,
    );
    try {
      for (;;) {
        counts.note(lookahead.logits());
        const token = sampler.sample(lookahead.logits());
        let reason: FinishReason | undefined;
        if (tokenizer.eos.has(token)) {
          reason = 'stop';
        } else {
          tokens.push(token);
          const piece = stops.push(decoder.push(token));
          give(piece.text);
          // What follows a stop string, and what was held back as its beginning, is not given out.
          if (piece.stopped) return finished('stop');
          if (tokens.length === options.maxTokens) reason = 'length';
          else if (lookahead.position >= context) reason = 'context';
          else if (options.signal?.aborted) reason = 'cancelled';
        }
        if (reason !== undefined) {
          const rest = stops.push(decoder.end());
          give(rest.text);
          if (rest.stopped) return finished('stop');
          give(stops.end());
          return finished(reason);
        }
        await lookahead.advance(token);
      }
    } finally {
      lookahead.drop();
    }
  }

  #remember(prompt: string | readonly ChatMessage[], options: GenerateOptions, answer: string): void {
    if (typeof prompt === 'string' && options.raw === true) return;
    this.#messages = [...this.#conversation(prompt), { role: 'assistant', content: answer }];
  }

  async forward(tokens: Int32Array, logits: 'last' | 'all'): Promise<Float32Array> {
    const result = await this.#sequence.forward(tokens, logits);
    this.#history = [...this.#sequence.tokens];
    return result;
  }

  rewind(position: number): void {
    this.#sequence.rewind(position);
    this.#history = [...this.#sequence.tokens];
    if (position === 0) this.#messages = [];
  }

  async dispose(): Promise<void> {
    // The cache must outlive a step that is under way.
    this.#disposed.abort();
    await this.#running;
    this.#sequence.free();
    this.#onDispose(this);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}
