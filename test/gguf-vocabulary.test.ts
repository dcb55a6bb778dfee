/** Vocabularies from GGUF: the same tokens as their definitions give, and as llama.cpp, where node-llama-cpp is installed. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ggufFile, value } from '../src/checkpoint/gguf/testing.ts';
import { vocabularyEntries } from '../src/checkpoint/gguf/write-vocabulary.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { randomUniform } from '../src/common/random.ts';
import { createTokenizer, type Tokenizer } from '../src/text/tokenizer.ts';
import { askLlamaCpp, llamaCpp } from './support/llama-cpp.ts';

type Entries = NonNullable<Parameters<typeof ggufFile>[0]['entries']>;

const scratch = mkdtempSync(join(tmpdir(), 'lutra-gguf-vocabulary-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const BYTES = Array.from(
  { length: 256 },
  (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
);
/** Earlier ones are merged first, as SentencePiece's scores have it. */
const PIECES = [
  '▁t',
  'he',
  'in',
  'er',
  '▁a',
  'on',
  '▁the',
  'an',
  'at',
  '▁▁',
  'ing',
  'ther',
  '▁in',
  'heat',
  '▁▁▁▁',
  'on▁a',
  'é',
];
const LETTERS = [...'▁etaoinshrdlucmfwypvbgkqjxz.,!0123456789'];
const TOKENS = ['<unk>', '<s>', '</s>', ...BYTES, ...PIECES, ...LETTERS, '<|user|>'];

/** A Llama of one layer and 32 columns, all random, with this vocabulary: enough for llama.cpp to load it. */
function makeFile(name: string, tokens: readonly string[], vocabulary: Entries): string {
  const uniform = randomUniform(71);
  const f32 = (name: string, ...sizes: number[]) => {
    const count = sizes.reduce((a, b) => a * b);
    return {
      name,
      type: 0,
      sizes,
      data: new Uint8Array(Float32Array.from({ length: count }, uniform).buffer),
    };
  };
  const own = (key: string, number: number) => [`llama.${key}`, value.u32(number)] as const;
  const path = join(scratch, `${name}.gguf`);
  const file = ggufFile({
    entries: [
      ['general.architecture', value.text('llama')],
      own('embedding_length', 32),
      own('block_count', 1),
      own('context_length', 64),
      own('feed_forward_length', 32),
      own('attention.head_count', 1),
      ['llama.attention.layer_norm_rms_epsilon', value.f32(1e-5)],
      ['tokenizer.ggml.tokens', value.texts(tokens)],
      ['tokenizer.ggml.bos_token_id', value.u32(1)],
      ['tokenizer.ggml.eos_token_id', value.u32(2)],
      ['tokenizer.ggml.unknown_token_id', value.u32(0)],
      ...vocabulary,
    ],
    tensors: [
      f32('token_embd.weight', 32, tokens.length),
      f32('output_norm.weight', 32),
      ...['attn_norm', 'ffn_norm'].map((part) => f32(`blk.0.${part}.weight`, 32)),
      ...['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'].map((part) =>
        f32(`blk.0.${part}.weight`, 32, 32),
      ),
    ],
  });
  writeFileSync(path, file);
  return path;
}

async function tokenizerOf(path: string): Promise<Tokenizer> {
  const checkpoint = await openCheckpoint(path);
  await checkpoint.close();
  return createTokenizer(checkpoint);
}

function piecesFile(): string {
  const scores = TOKENS.map((token) => {
    const rank = PIECES.indexOf(token);
    return rank >= 0 ? -rank : LETTERS.includes(token) ? -1000 - LETTERS.indexOf(token) : 0;
  });
  const typeOf = (token: string) => {
    if (token === '<unk>') return 2;
    if (token === '<s>' || token === '</s>') return 3;
    if (token === '<|user|>') return 4;
    return token.startsWith('<0x') ? 6 : 1;
  };
  return makeFile('pieces', TOKENS, [
    ['tokenizer.ggml.model', value.text('llama')],
    ['tokenizer.ggml.pre', value.text('default')],
    ['tokenizer.ggml.scores', value.f32s(scores)],
    ['tokenizer.ggml.token_type', value.i32s(TOKENS.map(typeOf))],
  ]);
}

const TEXTS = [
  'the other thing on a mat',
  'heathen in the inn, another one!',
  '  two  spaces    and more ',
  'Uppercase, größer, naïve café, 日本 🦦',
  'line\nbreak\tand tab',
  '',
  '12 + 345 = 357.',
];

const path = piecesFile();

describe('pieces from GGUF', () => {
  it('are split, merged by their scores and spelled in bytes, and come back as they were', async () => {
    const tokenizer = await tokenizerOf(path);
    const spelled = (text: string) => tokenizer.encode(text).map((id) => tokenizer.token(id));
    expect(spelled('the other')).toEqual(['<s>', '▁the', '▁', 'o', 't', 'he', 'r']);
    expect(spelled('ß')).toEqual(['<s>', '▁', '<0xC3>', '<0x9F>']);
    for (const text of TEXTS) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    expect(tokenizer.encode('<|user|>')).toContain(TOKENS.length - 1);
  });
});

/**
 * Texts in the words that Mistral's pattern takes apart, by its definition: a word begins at a capital behind small
 * letters, digits are alone, slashes and line breaks belong to the punctuation before them.
 */
const WORDS = [
  ['Hello', 'World'],
  ['HTTPServer', ' Of', 'ABC', ' x', 'Y'],
  ['don', "'t", ' it', "'S"],
  ['1', '2', '3', ' ', '4'],
  ['(see', ' //\n/', 'usr', '//', 'bin', ').'],
  ['two', '  ', ' spaces', ' \n\n', 'end', '  '],
];
/** What no regular expression for ASCII alone, as llama.cpp's is, takes apart by the definition. */
const BEYOND_ASCII = [
  ['naïve', ' Überraschung', ' été', 'Été'],
  ['日本', ' ǅungla', ' Ω', '¿Qué', '?'],
];
/** How byte-level BPE writes bytes: those that print as they are, the others from U+0100 on. */
const BYTE_LETTERS = byteLetters();

function byteLetters(): readonly string[] {
  const prints = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let others = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(prints(byte) ? byte : others++));
}

const written = (text: string) =>
  Array.from(new TextEncoder().encode(text), (byte) => BYTE_LETTERS[byte]).join('');

/** All words are tokens, and so is every text and every pair of words, which show where nothing was taken apart. */
function tekkenFile(): string {
  const texts = [...WORDS, ...BEYOND_ASCII];
  const joined = texts.flatMap((words) => words.map((word, at) => word + (words[at + 1] ?? '')));
  const whole = [...texts.flat(), ...texts.map((words) => words.join('')), ...joined].map(written);
  const tokens = ['<unk>', '<s>', '</s>', ...new Set([...BYTE_LETTERS, ...whole])];
  return makeFile('tekken', tokens, [
    ['tokenizer.ggml.model', value.text('gpt2')],
    ['tokenizer.ggml.pre', value.text('tekken')],
    ['tokenizer.ggml.merges', value.texts([`${BYTE_LETTERS[104]} ${BYTE_LETTERS[101]}`])],
    ['tokenizer.ggml.add_bos_token', value.bool(true)],
    ['tokenizer.ggml.token_type', value.i32s(tokens.map((_, id) => (id < 3 ? 3 : 1)))],
  ]);
}

const tekken = tekkenFile();

describe('tekken, of Mistral since NeMo', () => {
  it.each([...WORDS, ...BEYOND_ASCII].map((words) => [words.join(''), words] as const))(
    'takes %j apart as its definition does',
    async (text, words) => {
      const tokenizer = await tokenizerOf(tekken);
      const ids = tokenizer.encode(text);
      expect(ids.map((id) => tokenizer.token(id))).toEqual(['<s>', ...words.map(written)]);
      expect(tokenizer.decode(ids)).toBe(text);
    },
  );

  it('is found again by its pattern when a GGUF file is written', async () => {
    const checkpoint = await openCheckpoint(tekken);
    const { vocab } = await tokenizerOf(tekken);
    const entries = new Map(vocabularyEntries(checkpoint, vocab));
    await checkpoint.close();
    expect(entries.get('tokenizer.ggml.pre')).toMatchObject({ value: 'tekken' });
  });
});

describe.skipIf(llamaCpp === undefined)('llama.cpp', () => {
  it.each([
    ['pieces', path, TEXTS],
    ['tekken', tekken, WORDS.map((words) => words.join(''))],
  ])('makes the same tokens of every text by %s', async (_, model, texts) => {
    const tokenizer = await tokenizerOf(model);
    const { tokens } = askLlamaCpp({ model, prompts: [], texts, maxTokens: 0 });
    // It leaves the first token, bos, to its caller.
    expect(texts.map((text) => tokenizer.encode(text).slice(1))).toEqual(tokens);
  });
});
