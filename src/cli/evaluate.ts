/** What `lutra eval` measures, on any loaded model. */
import { LutraError } from '../common/errors.ts';
import type { Model } from '../runtime/types.ts';

export interface TestCase {
  readonly skill: string;
  readonly prompt: string;
  readonly answer: string;
}

/** Reads a JSONL file's text; throws `invalid` naming the line that is no {skill, prompt, answer}. */
export function parseTests(text: string, where: string): readonly TestCase[] {
  const cases: TestCase[] = [];
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      throw new LutraError('invalid', `${where}, line ${i + 1}: not JSON`, { cause });
    }
    if (!isTestCase(value)) {
      throw new LutraError('invalid', `${where}, line ${i + 1}: needs the texts skill, prompt and answer`);
    }
    cases.push(value);
  }
  if (cases.length === 0) throw new LutraError('invalid', `${where} has no tests`);
  return cases;
}

function isTestCase(value: unknown): value is TestCase {
  if (typeof value !== 'object' || value === null) return false;
  const fields = value as Record<string, unknown>;
  return ['skill', 'prompt', 'answer'].every((key) => typeof fields[key] === 'string');
}

export interface Accuracy {
  /** Share of exact answers, 0 to 1. */
  readonly overall: number;
  readonly skills: Readonly<Record<string, number>>;
}

export interface EvaluateOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Greedy answers by the chat template, each to its end of turn, in a conversation of its own; right is
 * what equals the expected answer to the last character.
 */
export async function measureAccuracy(
  model: Model,
  tests: readonly TestCase[],
  options: EvaluateOptions = {},
): Promise<Accuracy> {
  const tally = new Map<string, { right: number; count: number }>();
  await using session = model.createSession();
  for (const [done, { skill, prompt, answer }] of tests.entries()) {
    options.onProgress?.(done, tests.length);
    options.signal?.throwIfAborted();
    session.rewind(0);
    const generation = session.generate([{ role: 'user', content: prompt }], {
      temperature: 0,
      repetitionPenalty: 1,
      // An answer of more tokens than the expected one has bytes cannot be it.
      maxTokens: Buffer.byteLength(answer) + 1,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    let text = '';
    for await (const piece of generation) text += piece;
    const { finishReason } = await generation.result;
    const entry = tally.get(skill) ?? { right: 0, count: 0 };
    entry.count++;
    if (finishReason === 'stop' && text === answer) entry.right++;
    tally.set(skill, entry);
  }
  options.onProgress?.(tests.length, tests.length);
  const right = [...tally.values()].reduce((sum, entry) => sum + entry.right, 0);
  return {
    overall: right / tests.length,
    skills: Object.fromEntries([...tally].map(([skill, entry]) => [skill, entry.right / entry.count])),
  };
}

/** Tokens per call, so that the logits of a large vocabulary stay within some megabytes. */
const LOGITS_STEP = 64;

/**
 * exp of the mean negative log likelihood, in float64. Each line stands alone: the model's beginning of
 * text, the line, its end of text; every token after the first is predicted. Empty lines are left out.
 */
export async function measurePerplexity(
  model: Model,
  text: string,
  options: EvaluateOptions = {},
): Promise<number> {
  const lines = text.split(/\r?\n/).filter((line) => line !== '');
  if (lines.length === 0) throw new LutraError('invalid', 'the text has no lines');
  await using session = model.createSession();
  let sum = 0;
  let count = 0;
  for (const [done, line] of lines.entries()) {
    options.onProgress?.(done, lines.length);
    const end = model.endOfText === undefined ? [] : [model.endOfText];
    const tokens = Int32Array.of(...model.tokenize(line), ...end);
    const given = tokens.length - 1;
    if (given < 1) continue;
    if (given > model.context) {
      throw new LutraError(
        'usage',
        `line ${done + 1} has ${given} tokens to read; the context holds ${model.context}`,
        { hint: 'Break the line, or give a larger --context.' },
      );
    }
    session.rewind(0);
    for (let at = 0; at < given; at += LOGITS_STEP) {
      options.signal?.throwIfAborted();
      const step = tokens.subarray(at, Math.min(at + LOGITS_STEP, given));
      const logits = await session.forward(step, 'all');
      for (let i = 0; i < step.length; i++) {
        const row = logits.subarray(i * model.vocab, (i + 1) * model.vocab);
        sum += negativeLogLikelihood(row, tokens[at + i + 1]!);
        count++;
      }
    }
  }
  options.onProgress?.(lines.length, lines.length);
  return Math.exp(sum / count);
}

function negativeLogLikelihood(logits: Float32Array, token: number): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > max) max = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  return Math.log(sum) + max - logits[token]!;
}
