import { describe, expect, it } from 'vitest';
import { randomUniform } from '../common/random.ts';
import type { Logits } from '../targets/executable.ts';
import { GuessCosts, GuessPolicy } from './guess-policy.ts';
import { Lookahead } from './lookahead.ts';

/**
 * Takes `text` token by token after its first two. Steps take `cost(tokens)`; logits are the index of their token,
 * so that each must be that of the caller's position.
 */
async function read(text: readonly number[], limit: number, cost: (tokens: number) => number) {
  let clock = 0;
  const tokens = text.slice(0, 2);
  const sequence = {
    context: text.length + 1,
    tokens,
    rewind: (length: number) => {
      expect(length).toBeLessThanOrEqual(tokens.length);
      tokens.length = length;
    },
    release: (logits: Logits) => {
      (logits as Float32Array)[0] = -1;
    },
    forwardSelected: (more: readonly number[]) => {
      clock += cost(more.length);
      const rows = more.map((_, i) => Float32Array.of(tokens.length + i));
      tokens.push(...more);
      return Promise.resolve(rows);
    },
  };
  const policy = new GuessPolicy(new GuessCosts(() => clock));
  const lookahead = new Lookahead(sequence, Float32Array.of(1), limit, () => undefined, policy);
  for (let at = 2; at < text.length; at++) {
    await lookahead.advance(text[at]!);
    expect(lookahead.position).toBe(at + 1);
    expect((lookahead.logits() as Float32Array)[0]).toBe(at);
  }
  lookahead.drop();
  expect(tokens).toEqual(text);
  const { proposed, accepted } = lookahead;
  return { speed: ((text.length - 2) * cost(1)) / clock, proposed, accepted };
}

const random = randomUniform(5);
const LENGTH = 600;
const repetitive = Array.from({ length: LENGTH }, (_, i) => i % 23);
/** Pairs recur often, and what follows them seldom. */
const plain = Array.from({ length: LENGTH }, () => Math.floor(random() * 8));
/** Tokens of a step are nearly free where weights are what costs, and not at all where arithmetic is. */
const cheap = (tokens: number) => 40 + 2 * tokens;
const dear = (tokens: number) => 10 * tokens;

describe('Lookahead', () => {
  it('takes several tokens a step where guesses hold', async () => {
    const { speed, proposed, accepted } = await read(repetitive, 7, cheap);
    expect(speed).toBeGreaterThan(4);
    expect(accepted).toBeGreaterThan(0.95 * proposed);
  });

  it('loses next to nothing where they do not', async () => {
    for (const cost of [cheap, dear, (n: number) => 10 + 4 * n]) {
      const { speed, accepted, proposed } = await read(plain, 7, cost);
      expect(accepted).toBeLessThan(0.4 * proposed);
      expect(speed).toBeGreaterThan(0.99);
    }
  });

  it('does not guess ahead where checking costs what it saves, however often guesses hold', async () => {
    const { speed, proposed } = await read(repetitive, 7, dear);
    expect(speed).toBeGreaterThan(0.99);
    // One now and then, in case that costs change.
    expect(proposed).toBeLessThan(0.5 * LENGTH);
  });

  it('begins again when the text repeats itself at last', async () => {
    const { speed } = await read([...plain, ...repetitive.map((token) => token + 100)], 7, cheap);
    expect(speed).toBeGreaterThan(1.5);
  });

  it('guesses nothing where it may not', async () => {
    expect(await read(repetitive, 0, cheap)).toEqual({ speed: 1, proposed: 0, accepted: 0 });
  });
});
