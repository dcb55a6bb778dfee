import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { thrown } from '../common/testing.ts';
import type { TextSource } from './source.ts';
import { createTokenizer } from './tokenizer.ts';

const FOLDER = new URL('../../models/tiny-bitnet/', import.meta.url);
const FILES = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'] as const;

function tiny(changes: Record<string, string | undefined> = {}): TextSource {
  const read = (file: string) => readFileSync(new URL(file, FOLDER), 'utf8');
  const textFiles = new Map<string, string>(FILES.map((file) => [file, read(file)]));
  for (const [file, text] of Object.entries(changes)) {
    if (text === undefined) textFiles.delete(file);
    else textFiles.set(file, text);
  }
  return {
    path: 'models/tiny-bitnet',
    textFiles,
    config: JSON.parse(read('config.json')),
    generationConfig: JSON.parse(read('generation_config.json')),
  };
}

describe('createTokenizer', () => {
  const tokenizer = createTokenizer(tiny());

  it('knows the special tokens and what ends a generation', () => {
    expect(tokenizer.vocab).toBe(1024);
    expect(tokenizer.bos).toBe(1019);
    expect(tokenizer.endOfText).toBe(1020);
    expect([...tokenizer.eos].sort()).toEqual([1020, 1023]);
    expect([...tokenizer.special].sort()).toEqual([1019, 1020, 1021, 1022, 1023]);
    expect(tokenizer.token(1023)).toBe('<|eot_id|>');
    expect(tokenizer.token(5000)).toBeUndefined();
  });

  it('adds the beginning of text only where asked', () => {
    const plain = tokenizer.encode('What is 4 + 106?', { addSpecialTokens: false });
    expect(tokenizer.encode('What is 4 + 106?')).toEqual([1019, ...plain]);
    expect(tokenizer.encode('', { addSpecialTokens: false })).toEqual([]);
    expect(tokenizer.encode('')).toEqual([1019]);
    expect(tokenizer.encode('<|eot_id|>', { addSpecialTokens: false })).toEqual([1023]);
  });

  it('decodes what it encoded, for any text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }),
      { seed: 1, numRuns: 500 },
    );
  });

  it('keeps spaces before punctuation, whatever clean_up_tokenization_spaces says', () => {
    const cleaning = createTokenizer(
      tiny({ 'tokenizer_config.json': JSON.stringify({ clean_up_tokenization_spaces: true }) }),
    );
    expect(cleaning.decode(cleaning.encode("a , b . it 's"))).toBe("a , b . it 's");
  });

  it('gives nothing for special tokens, ids without a token and no ids', () => {
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([1019, 5000, -1])).toBe('');
    const hello = tokenizer.encode('hello', { addSpecialTokens: false });
    expect(tokenizer.decode([1019, 4000, ...hello, 1023])).toBe('hello');
  });

  it('takes the eos from the first file that names one', () => {
    const only = (source: Partial<TextSource>) => createTokenizer({ ...tiny(), ...source });
    expect(only({ generationConfig: { eos_token_id: 7 } }).eos).toEqual(new Set([7, 1023]));
    expect(only({ generationConfig: { eos_token_id: null } }).endOfText).toBe(1020);
    expect(only({ generationConfig: {}, config: {} }).endOfText).toBe(1023);
  });

  it('finds special tokens in special_tokens_map.json when the configuration has none', () => {
    const source = { ...tiny({ 'tokenizer_config.json': undefined }), config: {}, generationConfig: {} };
    expect(createTokenizer(source).bos).toBe(1019);
    expect(createTokenizer(source).eos).toEqual(new Set([1023]));
  });

  it('refuses a missing or malformed tokenizer by file name', () => {
    const missing = thrown(() => createTokenizer(tiny({ 'tokenizer.json': undefined })));
    expect(missing.code).toBe('not-found');
    expect(missing.message).toBe('tokenizer.json is missing in models/tiny-bitnet');
    for (const text of ['', '{"model": ', '[]', 'null', '{}', '{"model":{"type":"Nonsense"}}']) {
      const error = thrown(() => createTokenizer(tiny({ 'tokenizer.json': text })));
      expect(error.code).toBe('invalid');
      expect(error.message).toContain('tokenizer.json of models/tiny-bitnet');
      expect(error.hint).toBeTruthy();
    }
    const config = thrown(() => createTokenizer(tiny({ 'tokenizer_config.json': '{' })));
    expect(config.message).toContain('tokenizer_config.json of models/tiny-bitnet');
  });

  it('survives any damage to tokenizer.json with an error of its own', () => {
    const text = tiny().textFiles.get('tokenizer.json')!;
    const parsed = JSON.parse(text) as Record<string, unknown>;
    const junk = fc.oneof(fc.constant(null), fc.integer(), fc.string(), fc.constant([]), fc.constant({}));
    fc.assert(
      fc.property(fc.constantFrom(...Object.keys(parsed)), junk, (key, value) => {
        const source = tiny({ 'tokenizer.json': JSON.stringify({ ...parsed, [key]: value }) });
        try {
          createTokenizer(source);
        } catch (error) {
          expect(error).toBeInstanceOf(LutraError);
        }
      }),
      { seed: 2, numRuns: 40 },
    );
  });

  it('says so when a text cannot be spelled', () => {
    const gap = {
      version: '1.0',
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: null,
      post_processor: null,
      decoder: null,
      model: { type: 'WordPiece', vocab: { a: 0 }, unk_token: '[UNK]' },
    };
    const limited = createTokenizer({
      path: 'somewhere',
      textFiles: new Map([['tokenizer.json', JSON.stringify(gap)]]),
      config: {},
      generationConfig: {},
    });
    expect(limited.encode('a')).toEqual([0]);
    expect(limited.bos).toBeUndefined();
    expect(thrown(() => limited.encode('b')).code).toBe('invalid');
  });
});
