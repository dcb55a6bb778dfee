import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createStreamDecoder } from './stream-decoder.ts';
import { createTokenizer, type Tokenizer } from './tokenizer.ts';

function tinyTokenizer(): Tokenizer {
  const file = new URL('../../models/tiny-bitnet/tokenizer.json', import.meta.url);
  return createTokenizer({
    path: 'models/tiny-bitnet',
    textFiles: new Map([['tokenizer.json', readFileSync(file, 'utf8')]]),
    config: {},
    generationConfig: {},
  });
}

/** A SentencePiece-like vocabulary: words with a leading space mark, and all bytes to fall back to. */
function byteFallbackTokenizer(): Tokenizer {
  const words = ['▁', '▁the', '▁▁', 'a', 'b', '▁b', 'é', '<s>'];
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`);
  const vocab = Object.fromEntries([...words, ...bytes].map((token, id) => [token, id]));
  const definition = {
    version: '1.0',
    added_tokens: [{ id: vocab['<s>'], content: '<s>', special: true }],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: { type: 'BPE', vocab, merges: [], byte_fallback: true, unk_token: null },
  };
  return createTokenizer({
    path: 'byte-fallback',
    textFiles: new Map([['tokenizer.json', JSON.stringify(definition)]]),
    config: {},
    generationConfig: {},
  });
}

function pieces(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  const decoder = createStreamDecoder(tokenizer);
  return [...ids.map((id) => decoder.push(id)), decoder.end()];
}

const loneSurrogate = /\p{Surrogate}/u;

describe('createStreamDecoder', () => {
  const tiny = tinyTokenizer();
  const fallback = byteFallbackTokenizer();

  it('streams any text to what decoding it whole gives, in whole characters', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 80 }), (text) => {
        const given = pieces(tiny, tiny.encode(text));
        expect(given.join('')).toBe(text);
        for (const piece of given) expect(piece).not.toMatch(loneSurrogate);
      }),
      { seed: 3, numRuns: 400 },
    );
  });

  it.each([
    ['byte-level', tiny, 1024],
    ['byte fallback', fallback, 264],
  ])(
    'streams any tokens, valid UTF-8 or not, to what decoding them whole gives (%s)',
    (_, tokenizer, vocab) => {
      fc.assert(
        fc.property(fc.array(fc.nat(vocab - 1), { maxLength: 60 }), (ids) => {
          expect(pieces(tokenizer, ids).join('')).toBe(tokenizer.decode(ids));
        }),
        { seed: 4, numRuns: 1500 },
      );
    },
  );

  it('streams bytes of characters spread over tokens, byte fallback and words mixed', () => {
    const byte = (value: number) => 8 + value;
    const spelled = fc.oneof(
      fc.nat(7).map((id) => [id]),
      fc
        .string({ unit: 'binary', minLength: 1, maxLength: 2 })
        .map((s) => [...new TextEncoder().encode(s)].map(byte)),
      fc.constant([0xef, 0xbb, 0xbf].map(byte)),
    );
    fc.assert(
      fc.property(fc.array(spelled, { maxLength: 12 }), (parts) => {
        const ids = parts.flat();
        expect(pieces(fallback, ids).join('')).toBe(fallback.decode(ids));
      }),
      { seed: 5, numRuns: 1500 },
    );
  });

  it('holds an emoji back until its last byte, and gives up on it at the end', () => {
    const ids = tiny.encode('a😀', { addSpecialTokens: false });
    expect(ids.length).toBeGreaterThan(2);
    const decoder = createStreamDecoder(tiny);
    const given = ids.map((id) => decoder.push(id));
    expect(given[0]).toBe('a');
    expect(given.slice(1, -1).join('')).toBe('');
    expect(given.at(-1)).toBe('😀');
    expect(decoder.end()).toBe('');

    const cut = createStreamDecoder(tiny);
    expect(
      ids
        .slice(0, -1)
        .map((id) => cut.push(id))
        .join(''),
    ).toBe('a');
    expect(cut.end()).toBe('\ufffd');
  });

  it('drops the leading space of a text once, not of every window', () => {
    const ids = [1, 5, 0, 1, 3, 7, 5]; // ▁the ▁b ▁ ▁the a <s> ▁b
    expect(pieces(fallback, ids).join('|')).toBe('the| b| | the|a|| b|');
  });
});
