import { LutraError } from '../common/errors.ts';
import type { Sequence } from '../runtime/sequence.ts';
import type {
  ChatMessage,
  FinishReason,
  GenerateOptions,
  Generation,
  GenerationResult,
  Session,
} from '../runtime/types.ts';
import { createSampler, type Sampler } from '../text/sampler.ts';
import { resolveSampling } from '../text/sampling-options.ts';
import { createStopFilter, type StopFilter } from '../text/stop.ts';
import { createStreamDecoder } from '../text/stream-decoder.ts';
import type { ChatTemplate } from '../text/template.ts';
import type { Tokenizer } from '../text/tokenizer.ts';

/** What a session needs of its model. */
export interface SessionModel {
  readonly tokenizer: Tokenizer;
  /** Made when first needed, so that models without a template work with raw prompts. */
  template(): ChatTemplate;
  readonly context: number;
  /** generation_config.json, parsed. */
  readonly generationConfig: Readonly<Record<string, unknown>>;
}

const seconds = (since: number) => (performance.now() - since) / 1000;

/** A conversation on one KV cache. */
export class ModelSession implements Session {
  readonly #model: SessionModel;
  readonly #sequence: Sequence;
  readonly #onDispose: (session: ModelSession) => void;
  #messages: readonly ChatMessage[] = [];
  #busy = false;

  constructor(model: SessionModel, sequence: Sequence, onDispose: (session: ModelSession) => void) {
    this.#model = model;
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

    let settle: (result: GenerationResult) => void = () => undefined;
    let fail: (error: unknown) => void = () => undefined;
    const result = new Promise<GenerationResult>((resolve, reject) => {
      settle = resolve;
      fail = reject;
    });
    // A caller who only iterates sees the error there; it must not also count as unhandled.
    result.catch(() => undefined);
    const pieces = this.#run(tokens, prompt, options, sampler, stops, settle, fail);
    return { result, [Symbol.asyncIterator]: () => pieces };
  }

  #promptTokens(prompt: string | readonly ChatMessage[], options: GenerateOptions): readonly number[] {
    const { tokenizer, context } = this.#model;
    if (prompt.length === 0) {
      throw new LutraError('usage', 'the prompt is empty', { hint: 'Give some text to answer or continue.' });
    }
    let tokens: readonly number[];
    if (typeof prompt === 'string' && options.raw === true) {
      const own = tokenizer.encode(prompt, { addSpecialTokens: this.position === 0 });
      tokens = [...this.#sequence.tokens, ...own];
    } else {
      const messages =
        typeof prompt === 'string' ? [...this.#messages, { role: 'user' as const, content: prompt }] : prompt;
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

  /** Rewinds to the longest common beginning; at least the last token is computed, for its logits. */
  #reuse(tokens: readonly number[]): readonly number[] {
    const cached = this.#sequence.tokens;
    let common = 0;
    while (common < cached.length && common < tokens.length - 1 && cached[common] === tokens[common])
      common++;
    this.#sequence.rewind(common);
    return tokens.slice(common);
  }

  async *#run(
    promptTokens: readonly number[],
    prompt: string | readonly ChatMessage[],
    options: GenerateOptions,
    sampler: Sampler,
    stops: StopFilter,
    settle: (result: GenerationResult) => void,
    fail: (error: unknown) => void,
  ): AsyncGenerator<string, void> {
    if (this.#busy) {
      const error = new LutraError('usage', 'the session is already generating', {
        hint: 'Wait for it, or create another session: they share the model.',
      });
      fail(error);
      throw error;
    }
    this.#busy = true;
    const { tokenizer, context } = this.#model;
    const decoder = createStreamDecoder(tokenizer);
    const generated: number[] = [];
    let text = '';
    let finishReason: FinishReason = 'cancelled';
    let prefillSeconds = 0;
    let decodeStart = performance.now();
    let stopped = false;
    let failed = false;
    try {
      const start = performance.now();
      let logits = await this.#sequence.forward(this.#reuse(promptTokens), 'last', options.signal);
      prefillSeconds = seconds(start);
      decodeStart = performance.now();
      for (;;) {
        if (options.signal?.aborted) break;
        const token = sampler.sample(logits);
        if (tokenizer.eos.has(token)) {
          finishReason = 'stop';
          break;
        }
        generated.push(token);
        const piece = stops.push(decoder.push(token));
        text += piece.text;
        if (piece.text !== '') yield piece.text;
        if (piece.stopped) {
          stopped = true;
          finishReason = 'stop';
          break;
        }
        if (generated.length === options.maxTokens) {
          finishReason = 'length';
          break;
        }
        if (this.position >= context) {
          finishReason = 'context';
          break;
        }
        logits = await this.#sequence.forward([token], 'last');
      }
      if (!stopped) {
        const held = stops.push(decoder.end()).text + stops.end();
        text += held;
        if (held !== '') yield held;
      }
    } catch (error) {
      if (error instanceof LutraError && error.code === 'cancelled') return;
      failed = true;
      fail(error);
      throw error;
    } finally {
      this.#busy = false;
      if (!failed) {
        this.#remember(prompt, options, text);
        settle({
          text,
          tokens: generated,
          finishReason,
          promptTokens: promptTokens.length,
          timings: { prefillSeconds, decodeSeconds: seconds(decodeStart) },
        });
      }
    }
  }

  #remember(prompt: string | readonly ChatMessage[], options: GenerateOptions, answer: string): void {
    if (typeof prompt === 'string' && options.raw === true) return;
    const before =
      typeof prompt === 'string' ? [...this.#messages, { role: 'user' as const, content: prompt }] : prompt;
    this.#messages = [...before, { role: 'assistant', content: answer }];
  }

  async forward(tokens: Int32Array, logits: 'last' | 'all'): Promise<Float32Array> {
    return this.#sequence.forward(tokens, logits);
  }

  rewind(position: number): void {
    this.#sequence.rewind(position);
    if (position === 0) this.#messages = [];
  }

  async dispose(): Promise<void> {
    this.#sequence.free();
    this.#onDispose(this);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}
