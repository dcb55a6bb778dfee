/// <reference lib="esnext.disposable" preserve="true" />
/** The words of the public API. */

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** Omitted fields come from the model's generation_config.json, then from neutral defaults. */
export interface SamplingOptions {
  /** 0 is greedy. */
  readonly temperature?: number;
  /** Keep the k most likely tokens; 0 keeps all. */
  readonly topK?: number;
  /** Keep the smallest set of tokens whose probability reaches p, 0 < p <= 1. */
  readonly topP?: number;
  /** Drop tokens less likely than p times the most likely one, 0 <= p < 1. */
  readonly minP?: number;
  /** Divide (positive) or multiply (negative) the logits of tokens already seen; 1 is off. */
  readonly repetitionPenalty?: number;
  readonly seed?: number;
}

export interface GenerateOptions extends SamplingOptions {
  /** At most this many new tokens; default: to the end of the context. */
  readonly maxTokens?: number;
  /** Generation ends before any of these strings would be given out. */
  readonly stop?: readonly string[];
  readonly signal?: AbortSignal;
  /**
   * Guesses tokens from earlier text and checks up to this many in one step, 1 to 15; 0 (default) is off.
   * The output is exactly what it would be without; on repetitive text it comes faster. How many are guessed
   * depends on how often guesses held and what checking them was measured to cost: none where it does not pay.
   */
  readonly speculate?: number;
  /** A string is wrapped by the chat template as one user message unless `raw`. */
  readonly raw?: boolean;
}

/** `stop`: end-of-turn token or stop string; `length`: maxTokens; `context`: the context is full. */
export type FinishReason = 'stop' | 'length' | 'context' | 'cancelled';

export interface GenerationResult {
  readonly text: string;
  /** Ids of the generated tokens, the end-of-turn token excluded. */
  readonly tokens: readonly number[];
  readonly finishReason: FinishReason;
  readonly promptTokens: number;
  /** Tokens guessed, and how many of them were right, where `speculate` was asked for. */
  readonly speculation?: { readonly proposed: number; readonly accepted: number };
  /**
   * Where the output head is `exact`: of how many logits a token took the exact value where bounds sufficed, and how
   * many tokens needed all of them, as all do that are drawn without top-k and min-p.
   */
  readonly head?: { readonly median: number; readonly max: number; readonly full: number };
  readonly timings: { readonly prefillSeconds: number; readonly decodeSeconds: number };
}

/**
 * Iterate it for pieces of text that never split a character, or just await `result`: it runs either way.
 * Leaving the iteration early cancels it.
 */
export interface Generation extends AsyncIterable<string> {
  readonly result: Promise<GenerationResult>;
}

/** One conversation: its own KV cache and position. */
export interface Session extends AsyncDisposable {
  /** Tokens in the KV cache. */
  readonly position: number;
  /**
   * Continues the conversation. Messages whose tokens start with what the cache already holds are not
   * computed again.
   */
  generate(prompt: string | readonly ChatMessage[], options?: GenerateOptions): Generation;
  /** Feeds tokens and returns logits: [vocab] of the last, or [tokens, vocab] of all. For evaluation and benches. */
  forward(tokens: Int32Array, logits: 'last' | 'all'): Promise<Float32Array>;
  /** Forgets everything after the first `position` tokens. */
  rewind(position: number): void;
  dispose(): Promise<void>;
}

export interface LoadOptions {
  /** `auto` (default), `wasm`, `wasm:baseline`, `c`, `c:avx2`, ... */
  readonly target?: string;
  /** Default: physical cores times 0.8, rounded, at least 1. */
  readonly threads?: number;
  /** Positions of the KV cache; default 2048 or what the model allows. */
  readonly context?: number;
  /**
   * Sessions that may share a step when several generate at once, 1 to 16 (default). Together they get more
   * tokens per second, each alone fewer; what they say stays the same.
   */
  readonly maxBatch?: number;
  /**
   * Native code on Linux copies the weights that every token reads into huge pages: a little faster to decode with,
   * slower to load, and not shared among processes. Elsewhere it is noted and has no effect. Default: whether the
   * environment has LUTRA_HUGE_PAGES=1.
   */
  readonly hugePages?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
  /** Notes a person should see: a fallback to another target and why. */
  readonly onWarning?: (message: string) => void;
}

export interface Progress {
  /** `download`, `compile`, `load`, ... */
  readonly stage: string;
  readonly done: number;
  readonly total: number;
}

export interface Model extends AsyncDisposable {
  readonly name: string;
  /** The target that runs it, after fallbacks. */
  readonly target: string;
  readonly threads: number;
  readonly context: number;
  readonly vocab: number;
  /** The token that ends a text, where the model has one; `tokenize` does not add it. */
  readonly endOfText: number | undefined;
  /** Whether it takes the likeliest token where no temperature is given: `topK`, `topP`, `minP` and `seed` say nothing then. */
  readonly greedy: boolean;
  createSession(): Session;
  tokenize(text: string): readonly number[];
  detokenize(ids: readonly number[]): string;
  dispose(): Promise<void>;
}
