/** The library as users see it: load, sessions, streaming, cancelling, errors. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ChatMessage, load, type Model } from '../src/index.ts';

const scratch = mkdtempSync(join(tmpdir(), 'lutra-api-'));
const QUESTION = 'What is 4 + 106?';
const ANSWER = '4 + 106 = 110';
const GREEDY = { temperature: 0 } as const;
let model: Model;

beforeAll(async () => {
  process.env.LUTRA_CACHE = scratch;
  model = await load('models/tiny-bitnet', { target: 'wasm', context: 128 });
}, 300_000);

afterAll(async () => {
  await model.dispose();
  delete process.env.LUTRA_CACHE;
  rmSync(scratch, { recursive: true, force: true });
});

async function collect(pieces: AsyncIterable<string>): Promise<string[]> {
  const all: string[] = [];
  for await (const piece of pieces) all.push(piece);
  return all;
}

describe('a session', () => {
  it('streams pieces that make up the result', async () => {
    await using session = model.createSession();
    const generation = session.generate(QUESTION, GREEDY);
    const pieces = await collect(generation);
    const result = await generation.result;
    expect(pieces.join('')).toBe(ANSWER);
    expect(pieces.length).toBeGreaterThan(3);
    expect(result).toMatchObject({ text: ANSWER, finishReason: 'stop', promptTokens: 20 });
    expect(model.detokenize(result.tokens)).toBe(ANSWER);
  });

  it('gives the result to those who do not iterate', async () => {
    await using session = model.createSession();
    expect((await session.generate(QUESTION, GREEDY).result).text).toBe(ANSWER);
  });

  it('continues a conversation, computing only what is new', async () => {
    await using session = model.createSession();
    await session.generate(QUESTION, GREEDY).result;
    const before = session.position;
    const messages: ChatMessage[] = [
      { role: 'user', content: QUESTION },
      { role: 'assistant', content: ANSWER },
      { role: 'user', content: 'Hello!' },
    ];
    const second = await session.generate('Hello!', GREEDY).result;
    await using fresh = model.createSession();
    const alone = await fresh.generate(messages, GREEDY).result;
    expect(second.text).toBe(alone.text);
    expect(second.promptTokens).toBe(alone.promptTokens);
    expect(session.position).toBeGreaterThan(before);
  });

  it('continues plain text after its own answer', async () => {
    await using session = model.createSession();
    const options = { ...GREEDY, raw: true, maxTokens: 5 };
    const first = await session.generate('Once upon a time there was a', options).result;
    expect(first.finishReason).toBe('length');
    const more = ' and the letter';
    const second = await session.generate(more, options).result;
    const bos = 1;
    expect(second.promptTokens).toBe(first.promptTokens + 5 + model.tokenize(more).length - bos);
    // The same tokens at once give the same continuation.
    await using fresh = model.createSession();
    const ids = [...model.tokenize('Once upon a time there was a'), ...first.tokens];
    const logits = await fresh.forward(Int32Array.from([...ids, ...model.tokenize(more).slice(bos)]), 'last');
    expect(second.tokens[0]).toBe(logits.indexOf(Math.max(...logits)));
  });

  it('does not disturb other sessions of the model', async () => {
    await using a = model.createSession();
    await using b = model.createSession();
    const [one, two] = await Promise.all([
      a.generate(QUESTION, GREEDY).result,
      b.generate('Spell the word nurse.', GREEDY).result,
    ]);
    expect(one.text).toBe(ANSWER);
    expect(two.text).toBe('n-u-r-s-e');
  });

  it('shares steps with other sessions, whose answers stay what they are alone', async () => {
    const questions = ['Hello!', QUESTION, 'What is 17 + 5?', 'What is 250 - 31?', 'Tell me a story.'];
    const options = { maxTokens: 24, temperature: 0.8 };
    const answer = async (question: string, i: number) => {
      await using session = model.createSession();
      return (await session.generate(question, { ...options, seed: i, speculate: i % 2 }).result).tokens;
    };
    const alone: (readonly number[])[] = [];
    for (const [i, question] of questions.entries()) alone.push(await answer(question, i));
    expect(await Promise.all(questions.map(answer))).toEqual(alone);
  });

  it('repeats a sampled answer with the same seed, and only then', async () => {
    const story = async (seed: number) => {
      await using session = model.createSession();
      const options = { temperature: 1.5, seed, maxTokens: 30 };
      return (await session.generate('Tell me a story about a fox.', options).result).text;
    };
    const first = await story(7);
    expect(await story(7)).toBe(first);
    expect(await story(8)).not.toBe(first);
  });

  it.each([0, 1.5])('speculates without changing the answer, at temperature %d', async (temperature) => {
    const prompts = ['Tell me a story about a fox.', 'Repeat: fox fox fox fox fox fox', QUESTION];
    // What guessing cost sessions before counts for all of a model.
    await using model = await load('models/tiny-bitnet', { target: 'wasm', context: 128 });
    let proposed = 0;
    for (const prompt of prompts) {
      const options = { temperature, seed: 5, maxTokens: 60 };
      await using plain = model.createSession();
      const expected = await plain.generate(prompt, options).result;
      await using session = model.createSession();
      const result = await session.generate(prompt, { ...options, speculate: 7 }).result;
      expect(result.tokens).toEqual(expected.tokens);
      expect(result.finishReason).toBe(expected.finishReason);
      expect(session.position).toBe(plain.position);
      expect(result.speculation!.accepted).toBeLessThanOrEqual(result.speculation!.proposed);
      proposed += result.speculation!.proposed;
    }
    // How many it guesses depends on the time steps take; the first chance is always taken.
    if (temperature === 0) expect(proposed).toBeGreaterThan(0);
  });

  it('ends before a stop string', async () => {
    await using session = model.createSession();
    const generation = session.generate(QUESTION, { ...GREEDY, stop: [' = '] });
    expect((await collect(generation)).join('')).toBe('4 + 106');
    expect((await generation.result).finishReason).toBe('stop');
  });

  it('stops when its signal says so, and can go on', async () => {
    await using session = model.createSession();
    const controller = new AbortController();
    const generation = session.generate(QUESTION, { ...GREEDY, signal: controller.signal });
    for await (const piece of generation) if (piece !== '') controller.abort();
    const { finishReason, text } = await generation.result;
    expect(finishReason).toBe('cancelled');
    expect(ANSWER.startsWith(text)).toBe(true);
    expect(text.length).toBeLessThan(ANSWER.length);
    await using next = model.createSession();
    expect((await next.generate(QUESTION, GREEDY).result).text).toBe(ANSWER);
  });

  it('stops when its reader leaves', async () => {
    await using session = model.createSession();
    const generation = session.generate('Tell me a story about a fox.', GREEDY);
    for await (const piece of generation) if (piece !== '') break;
    expect((await generation.result).finishReason).toBe('cancelled');
  });

  it('says that the context is full', async () => {
    await using small = await load('models/tiny-bitnet', { target: 'wasm', context: 48 });
    await using session = small.createSession();
    const { finishReason, tokens, promptTokens } = await session.generate(
      'Tell me a story about a fox.',
      GREEDY,
    ).result;
    expect(finishReason).toBe('context');
    expect(session.position).toBe(48);
    // The last token was chosen from the last position, and has none of its own.
    expect(promptTokens + tokens.length).toBe(49);
  });

  it('leaves the event loop free', async () => {
    await using session = model.createSession();
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    await session.generate('Tell me a story about a fox.', { ...GREEDY, maxTokens: 40 }).result;
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(5);
  });
});

describe('bad requests', () => {
  it.each([
    ['an empty prompt', '', {}, /prompt is empty/],
    ['no messages', [], {}, /prompt is empty/],
    ['a prompt longer than the context', 'a '.repeat(400), {}, /the context holds 128/],
    ['speculate 16', 'x', { speculate: 16 }, /speculate/],
    ['maxTokens 0', 'x', { maxTokens: 0 }, /maxTokens/],
    ['a negative temperature', 'x', { temperature: -1 }, /temperature/],
    ['topP 0', 'x', { topP: 0 }, /topP/],
    ['an empty stop string', 'x', { stop: [''] }, /stop string is empty/],
  ])('%s', async (_, prompt, options, message) => {
    await using session = model.createSession();
    expect(() => session.generate(prompt, options)).toThrow(message);
    // The session is still good.
    expect((await session.generate(QUESTION, GREEDY).result).text).toBe(ANSWER);
  });

  it('two generations at once', async () => {
    await using session = model.createSession();
    const first = session.generate(QUESTION, GREEDY);
    expect(() => session.generate(QUESTION)).toThrow(/already generating/);
    expect((await first.result).text).toBe(ANSWER);
  });

  it('tokens outside the vocabulary, and after disposal', async () => {
    const session = model.createSession();
    await expect(session.forward(Int32Array.of(1024), 'last')).rejects.toThrow(/token 1024/);
    await expect(session.forward(Int32Array.of(), 'last')).rejects.toThrow(/at least one token/);
    await session.dispose();
    await expect(session.forward(Int32Array.of(1), 'last')).rejects.toThrow(/disposed/);
  });

  it.each([
    [{ threads: 0 }, /threads must be/],
    [{ threads: 1.5 }, /threads must be/],
    [{ target: 'gpu' }, /unknown target gpu/],
    [{ context: 100_000 }, /context must be 1 to 512/],
  ])('load with %j', async (options, message) => {
    await expect(load('models/tiny-bitnet', options)).rejects.toThrow(message);
  });

  it('a model that does not exist', async () => {
    await expect(load('no/such/folder/here')).rejects.toThrow(/no folder/);
  });
});

describe('a disposed model', () => {
  it('ends its sessions, one of them busy', async () => {
    const own = await load('models/tiny-bitnet', { target: 'wasm', context: 128 });
    const session = own.createSession();
    const generation = session.generate('Tell me a story about a fox.', GREEDY);
    await own.dispose();
    expect((await generation.result).finishReason).toBe('cancelled');
    expect(() => own.createSession()).toThrow(/disposed/);
  });
});
