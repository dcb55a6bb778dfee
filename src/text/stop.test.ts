import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createStopFilter } from './stop.ts';

/** Character by character: ends as soon as the text ends with a stop string, before the longest such. */
function reference(text: string, stops: readonly string[]): { text: string; stopped: boolean } {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    if (found.length > 0) {
      const longest = Math.max(...found.map((stop) => stop.length));
      return { text: text.slice(0, end - longest), stopped: true };
    }
  }
  return { text, stopped: false };
}

describe('createStopFilter', () => {
  it('lets through what the reference lets through, however the text is cut', () => {
    const few = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 5 });
    fc.assert(
      fc.property(
        fc.array(few, { maxLength: 12 }),
        fc.array(
          few.filter((stop) => stop !== ''),
          { maxLength: 3 },
        ),
        (pieces, stops) => {
          const filter = createStopFilter(stops);
          let given = '';
          let stopped = false;
          for (const piece of pieces) {
            const step = filter.push(piece);
            given += step.text;
            stopped = step.stopped;
            for (const stop of stops) expect(given).not.toContain(stop);
          }
          given += filter.end();
          expect({ text: given, stopped }).toEqual(reference(pieces.join(''), stops));
        },
      ),
      { seed: 6, numRuns: 3000 },
    );
  });

  it('holds back only what might begin a stop string', () => {
    const filter = createStopFilter(['\nUser:']);
    expect(filter.push('Hello')).toEqual({ text: 'Hello', stopped: false });
    expect(filter.push(' there\nUs')).toEqual({ text: ' there', stopped: false });
    expect(filter.push('ed')).toEqual({ text: '\nUsed', stopped: false });
    expect(filter.push('!\nUser')).toEqual({ text: '!', stopped: false });
    expect(filter.push(': more')).toEqual({ text: '', stopped: true });
    expect(filter.push('even more')).toEqual({ text: '', stopped: true });
    expect(filter.end()).toBe('');
  });

  it('gives the held text at the end', () => {
    const filter = createStopFilter(['END']);
    expect(filter.push('the EN').text).toBe('the ');
    expect(filter.end()).toBe('EN');
  });

  it('passes everything at once without stop strings, and refuses an empty one', () => {
    expect(createStopFilter([]).push('abc')).toEqual({ text: 'abc', stopped: false });
    expect(() => createStopFilter(['x', ''])).toThrow('a stop string is empty');
  });
});
