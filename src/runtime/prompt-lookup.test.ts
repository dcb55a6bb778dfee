import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LONGEST, PromptLookup } from './prompt-lookup.ts';

function propose(history: readonly number[], count: number) {
  const lookup = new PromptLookup();
  for (const token of history) lookup.push(token);
  return lookup.propose(count);
}

/** The same by its definition: longest match first, then latest. */
function plain(history: readonly number[], count: number) {
  for (let matched = LONGEST; matched >= 2; matched--) {
    const tail = history.slice(-matched);
    for (let at = history.length - 1; at >= matched && tail.length === matched; at--) {
      if (tail.every((token, i) => history[at - matched + i] === token)) {
        return { matched, tokens: history.slice(at, at + count) };
      }
    }
  }
  return undefined;
}

describe('PromptLookup', () => {
  it('proposes what followed the same tokens before, the latest time', () => {
    expect(propose([1, 2, 3, 4, 9, 1, 2, 7, 8, 5, 1, 2], 3)).toEqual({ matched: 2, tokens: [7, 8, 5] });
  });

  it('prefers the longer match to the later one', () => {
    expect(propose([5, 1, 2, 3, 8, 6, 2, 3, 9, 5, 1, 2, 3], 1)).toEqual({ matched: 4, tokens: [8] });
  });

  it('runs into its own continuation', () => {
    expect(propose([4, 4, 4, 4], 8)?.tokens).toEqual([4]);
    expect(propose([1, 2, 1, 2, 1, 2], 8)?.tokens).toEqual([1, 2]);
  });

  it('proposes nothing for a token alone', () => {
    for (const history of [[1, 5, 2, 5], [], [1]]) expect(propose(history, 4)).toBeUndefined();
  });

  it('proposes what its definition says', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(3), { maxLength: 60 }),
        fc.integer({ min: 1, max: 8 }),
        (history, count) => {
          expect(propose(history, count)).toEqual(plain(history, count));
        },
      ),
      { seed: 3 },
    );
  });
});
