import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { proposeTokens } from './prompt-lookup.ts';

describe('proposeTokens', () => {
  it('proposes what followed the same tokens before, the latest time', () => {
    expect(proposeTokens([1, 2, 3, 4, 9, 1, 2, 7, 8, 5, 1, 2], 3)).toEqual([7, 8, 5]);
  });

  it('prefers the longer match to the later one', () => {
    expect(proposeTokens([5, 1, 2, 3, 8, 6, 2, 3, 9, 5, 1, 2, 3], 1)).toEqual([8]);
  });

  it('runs into its own continuation', () => {
    expect(proposeTokens([4, 4, 4, 4], 8)).toEqual([4]);
    expect(proposeTokens([1, 2, 1, 2, 1, 2], 8)).toEqual([1, 2]);
  });

  it('proposes nothing for a token alone', () => {
    expect(proposeTokens([1, 5, 2, 5], 4)).toEqual([]);
    expect(proposeTokens([], 4)).toEqual([]);
    expect(proposeTokens([1], 4)).toEqual([]);
  });

  it('only ever proposes a run of the history that follows its last two tokens', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(3), { maxLength: 60 }),
        fc.integer({ min: 1, max: 8 }),
        (history, count) => {
          const proposed = proposeTokens(history, count);
          expect(proposed.length).toBeLessThanOrEqual(count);
          if (proposed.length === 0) return;
          const [a, b] = history.slice(-2);
          const places = history.flatMap((_, i) =>
            i >= 2 &&
            history[i - 2] === a &&
            history[i - 1] === b &&
            proposed.every((t, j) => history[i + j] === t)
              ? [i]
              : [],
          );
          expect(places.length).toBeGreaterThan(0);
        },
      ),
      { seed: 3 },
    );
  });
});
