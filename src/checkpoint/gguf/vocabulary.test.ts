import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { refusal } from '../../common/testing.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { llama3Vocabulary, synthTokenizer } from '../synth/tokenizer.ts';
import type { GgufValue } from './header.ts';
import { vocabularyFiles } from './read-vocabulary.ts';
import { vocabularyEntries } from './write-vocabulary.ts';

type Json = Record<string, unknown>;

function checkpointOf(files: Readonly<Record<string, unknown>>): Checkpoint {
  return {
    path: 'some/model',
    config: { bos_token_id: 1, eos_token_id: [2, 7] },
    generationConfig: {},
    textFiles: new Map(
      Object.entries(files).map(([name, value]) => [
        name,
        typeof value === 'string' ? value : JSON.stringify(value),
      ]),
    ),
    tensors: new Map(),
    read: () => Promise.reject(new Error('nothing to read')),
    close: async () => {},
  };
}

const written = (files: Readonly<Record<string, unknown>>, size: number): ReadonlyMap<string, GgufValue> =>
  new Map(vocabularyEntries(checkpointOf(files), size).map(([key, { value }]) => [key, value]));

const reread = (metadata: ReadonlyMap<string, GgufValue>): Json =>
  JSON.parse(vocabularyFiles(metadata, 'x.gguf').get('tokenizer.json')!);

const read = (name: string) =>
  readFileSync(new URL(`../../../models/tiny-bitnet/${name}`, import.meta.url), 'utf8');

describe('byte-level BPE', () => {
  const files = {
    'tokenizer.json': read('tokenizer.json'),
    'tokenizer_config.json': read('tokenizer_config.json'),
  };
  const metadata = written(files, 1030);

  test('is written as llama.cpp reads it', () => {
    expect(metadata.get('tokenizer.ggml.model')).toBe('gpt2');
    // Digits one by one, as Qwen 2 splits them.
    expect(metadata.get('tokenizer.ggml.pre')).toBe('qwen2');
    const tokens = metadata.get('tokenizer.ggml.tokens') as string[];
    const types = metadata.get('tokenizer.ggml.token_type') as number[];
    expect(tokens).toHaveLength(1030);
    expect([tokens[0], tokens[1019], tokens[1029]]).toEqual(['!', '<|begin_of_text|>', '[PAD1029]']);
    expect([types[0], types[1019], types[1029]]).toEqual([1, 3, 5]);
    expect((metadata.get('tokenizer.ggml.merges') as string[])[0]).toBe('e r');
    expect(metadata.get('tokenizer.ggml.bos_token_id')).toBe(1019);
    expect([
      metadata.get('tokenizer.ggml.eos_token_id'),
      metadata.get('tokenizer.ggml.eot_token_id'),
    ]).toEqual([2, 7]);
    expect(metadata.get('tokenizer.ggml.add_bos_token')).toBe(true);
    expect(metadata.get('tokenizer.chat_template')).toContain('add_generation_prompt');
  });

  test('comes back as it was', () => {
    const original: Json = JSON.parse(files['tokenizer.json']);
    const { model, pre_tokenizer: pre, added_tokens: added } = reread(metadata) as Record<string, Json>;
    const own = original.model as Json;
    expect(model!.merges).toEqual(
      (own.merges as (string | string[])[]).map((m) => (Array.isArray(m) ? m.join(' ') : m)),
    );
    const specials = (original.added_tokens as Json[]).map(({ content, id }) => [content, id]);
    expect(model!.vocab).toEqual({ ...(own.vocab as Json), ...Object.fromEntries(specials) });
    expect(added).toEqual(original.added_tokens);
    const [split] = (original.pre_tokenizer as Json).pretokenizers as Json[] as [Json];
    expect((pre!.pretokenizers as Json[])[0]).toEqual(split);
    const config = JSON.parse(vocabularyFiles(metadata, 'x').get('tokenizer_config.json')!);
    expect(config.chat_template).toBe(JSON.parse(files['tokenizer_config.json']).chat_template);
    expect(config.bos_token).toBe('<|begin_of_text|>');
  });

  test("has Llama 3's name where digits come in threes, and is refused for other words", () => {
    const definition = synthTokenizer(llama3Vocabulary(300, 280)) as Json;
    expect(written({ 'tokenizer.json': definition }, 300).get('tokenizer.ggml.pre')).toBe('llama-bpe');
    const gpt2 = { ...definition, pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false } };
    expect(written({ 'tokenizer.json': gpt2 }, 300).get('tokenizer.ggml.pre')).toBe('gpt-2');
    const pattern = { type: 'Split', pattern: { Regex: '\\w+' }, behavior: 'Isolated' };
    const other = {
      ...definition,
      pre_tokenizer: { type: 'Sequence', pretokenizers: [pattern, { type: 'ByteLevel' }] },
    };
    expect(refusal(() => written({ 'tokenizer.json': other }, 300))).toMatch(/^unsupported: .*\\w\+/);
  });
});

test('SentencePiece: pieces, bytes and scores that merge in the same order', () => {
  const vocab = { '<unk>': 0, '<s>': 1, '</s>': 2, '<0x41>': 3, '▁': 4, a: 5, b: 6, ab: 7, '▁ab': 8, ba: 9 };
  const definition = {
    added_tokens: [
      { id: 0, content: '<unk>', special: true },
      { id: 1, content: '<s>', special: true },
      { id: 2, content: '</s>', special: true },
    ],
    normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }] },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    },
    model: {
      type: 'BPE',
      byte_fallback: true,
      unk_token: '<unk>',
      vocab,
      merges: [
        ['b', 'a'],
        ['a', 'b'],
        ['▁', 'ab'],
      ],
    },
  };
  const metadata = written({ 'tokenizer.json': definition }, 10);
  expect(metadata.get('tokenizer.ggml.model')).toBe('llama');
  expect(metadata.get('tokenizer.ggml.token_type')).toEqual([2, 3, 3, 6, 1, 1, 1, 1, 1, 1]);
  const scores = metadata.get('tokenizer.ggml.scores') as number[];
  expect(scores[9]).toBeGreaterThan(scores[7]!);
  expect(scores[7]).toBeGreaterThan(scores[8]!);
  expect(scores[8]).toBeGreaterThan(scores[5]!);
  const again = reread(metadata);
  expect(again.model).toMatchObject({ ...definition.model, vocab });
  expect(again.post_processor).toMatchObject({ single: definition.post_processor.single });
});

describe('is refused', () => {
  const base: [string, GgufValue][] = [
    ['tokenizer.ggml.model', 'gpt2'],
    ['tokenizer.ggml.pre', 'qwen2'],
    ['tokenizer.ggml.tokens', ['a', 'b']],
  ];
  test.each<[string, [string, GgufValue][], RegExp]>([
    ['another kind of tokenizer', [['tokenizer.ggml.model', 'bert']], /^unsupported: .*"bert"/],
    ['unknown words', [['tokenizer.ggml.pre', 'viking']], /^unsupported: .*"viking"/],
    ['no tokens', [['tokenizer.ggml.tokens', []]], /^invalid: .*0 tokens/],
    ['tokens that are numbers', [['tokenizer.ggml.tokens', [1, 2]]], /^invalid: .*tokens is no list/],
    ['types of other tokens', [['tokenizer.ggml.token_type', [1]]], /^invalid: .*token_type is no list of 2/],
    ['pieces without scores', [['tokenizer.ggml.model', 'llama']], /^invalid: .*no tokenizer\.ggml\.scores/],
  ])('%s', (_, more, message) => {
    expect(refusal(() => vocabularyFiles(new Map([...base, ...more]), 'x.gguf'))).toMatch(message);
  });
  test('nothing, where a file has no tokenizer', () => {
    expect(vocabularyFiles(new Map(), 'x.gguf').size).toBe(0);
  });
});
