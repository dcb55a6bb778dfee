/** A model without a computer behind it: says what it is told to, and forwards simple arithmetic. */
import type {
  ChatMessage,
  FinishReason,
  GenerateOptions,
  Generation,
  GenerationResult,
  Model,
  Session,
} from '../../src/runtime/types.ts';

export const FAKE_VOCAB = 256;
export const FAKE_BOS = 1;
export const FAKE_EOS = 2;

/** The logit of token `next` after token `last`. */
export function fakeLogit(last: number, next: number): number {
  return Math.sin(last * 7 + next * 3) * 4;
}

export interface FakeModelOptions {
  /** The answer to a conversation; an error is thrown from the generation. */
  readonly answer?: (messages: readonly ChatMessage[], options: GenerateOptions) => string;
  readonly context?: number;
  /** Called before each character of an answer. */
  readonly onPiece?: () => void;
  /** What else results say. */
  readonly counts?: Pick<GenerationResult, 'speculation' | 'head'>;
}

export interface FakeModel extends Model {
  readonly disposed: () => boolean;
  readonly openSessions: () => number;
}

/** Its tokens are the bytes of a text. */
export function fakeModel(options: FakeModelOptions = {}): FakeModel {
  let disposed = false;
  let open = 0;
  const context = options.context ?? 128;
  const dispose = async () => {
    disposed = true;
  };
  return {
    name: 'fake',
    target: 'fake:scalar',
    threads: 1,
    context,
    vocab: FAKE_VOCAB,
    endOfText: FAKE_EOS,
    greedy: true,
    createSession() {
      open++;
      return fakeSession(options, () => open--);
    },
    tokenize: (text) => [FAKE_BOS, ...new TextEncoder().encode(text)],
    detokenize: (ids) => new TextDecoder().decode(Uint8Array.from(ids.filter((id) => id > FAKE_EOS))),
    dispose,
    [Symbol.asyncDispose]: dispose,
    disposed: () => disposed,
    openSessions: () => open,
  };
}

function fakeSession(options: FakeModelOptions, onDispose: () => void): Session {
  let position = 0;
  const dispose = async () => onDispose();
  return {
    get position() {
      return position;
    },
    generate(prompt, given = {}) {
      const messages: readonly ChatMessage[] =
        typeof prompt === 'string' ? [{ role: 'user', content: prompt }] : prompt;
      const answer = options.answer ?? (() => 'yes');
      return fakeGeneration(() => answer(messages, given), given, options);
    },
    async forward(tokens, logits) {
      position += tokens.length;
      const rows = logits === 'all' ? [...tokens] : [tokens[tokens.length - 1]!];
      return Float32Array.from(
        rows.flatMap((last) => Array.from({ length: FAKE_VOCAB }, (_, next) => fakeLogit(last, next))),
      );
    },
    rewind: (to) => {
      position = to;
    },
    dispose,
    [Symbol.asyncDispose]: dispose,
  };
}

function fakeGeneration(
  answer: () => string,
  options: GenerateOptions,
  { onPiece, counts }: FakeModelOptions,
): Generation {
  let settle: (result: GenerationResult) => void = () => undefined;
  let fail: (error: unknown) => void = () => undefined;
  const result = new Promise<GenerationResult>((resolve, reject) => {
    settle = resolve;
    fail = reject;
  });
  result.catch(() => undefined);
  async function* run(): AsyncGenerator<string, void> {
    let text = '';
    let finishReason: FinishReason = 'stop';
    try {
      for (const piece of answer()) {
        onPiece?.();
        await Promise.resolve();
        if (options.signal?.aborted) finishReason = 'cancelled';
        else if (text.length === options.maxTokens) finishReason = 'length';
        if (finishReason !== 'stop') break;
        text += piece;
        yield piece;
      }
    } catch (error) {
      fail(error);
      throw error;
    }
    const tokens = [...new TextEncoder().encode(text)];
    settle({
      text,
      tokens,
      finishReason,
      promptTokens: 5,
      timings: { prefillSeconds: 0.5, decodeSeconds: 0.25 },
      ...counts,
    });
  }
  const pieces = run();
  return { result, [Symbol.asyncIterator]: () => pieces };
}
