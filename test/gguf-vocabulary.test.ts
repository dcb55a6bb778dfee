/** SentencePiece vocabularies from GGUF: the same tokens as llama.cpp, where node-llama-cpp is installed. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ggufFile, value } from '../src/checkpoint/gguf/testing.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { randomUniform } from '../src/common/random.ts';
import { createTokenizer, type Tokenizer } from '../src/text/tokenizer.ts';

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

/** A Llama of one layer and 32 columns, all random: enough for llama.cpp to load it. */
function makeFile(): string {
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
  const own = (key: string, number: number) => [`llama.${key}`, value.u32(number)] as const;
  const path = join(scratch, 'pieces.gguf');
  const file = ggufFile({
    entries: [
      ['general.architecture', value.text('llama')],
      own('embedding_length', 32),
      own('block_count', 1),
      own('context_length', 64),
      own('feed_forward_length', 32),
      own('attention.head_count', 1),
      ['llama.attention.layer_norm_rms_epsilon', value.f32(1e-5)],
      ['tokenizer.ggml.model', value.text('llama')],
      ['tokenizer.ggml.pre', value.text('default')],
      ['tokenizer.ggml.tokens', value.texts(TOKENS)],
      ['tokenizer.ggml.scores', value.f32s(scores)],
      ['tokenizer.ggml.token_type', value.i32s(TOKENS.map(typeOf))],
      ['tokenizer.ggml.bos_token_id', value.u32(1)],
      ['tokenizer.ggml.eos_token_id', value.u32(2)],
      ['tokenizer.ggml.unknown_token_id', value.u32(0)],
    ],
    tensors: [
      f32('token_embd.weight', 32, TOKENS.length),
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

const TEXTS = [
  'the other thing on a mat',
  'heathen in the inn, another one!',
  '  two  spaces    and more ',
  'Uppercase, größer, naïve café, 日本 🦦',
  'line\nbreak\tand tab',
  '',
  '12 + 345 = 357.',
];

const path = makeFile();
let tokenizer: Tokenizer;

describe('pieces from GGUF', () => {
  it('are split, merged by their scores and spelled in bytes, and come back as they were', async () => {
    const checkpoint = await openCheckpoint(path);
    tokenizer = createTokenizer(checkpoint);
    await checkpoint.close();
    const spelled = (text: string) => tokenizer.encode(text).map((id) => tokenizer.token(id));
    expect(spelled('the other')).toEqual(['<s>', '▁the', '▁', 'o', 't', 'he', 'r']);
    expect(spelled('ß')).toEqual(['<s>', '▁', '<0xC3>', '<0x9F>']);
    for (const text of TEXTS) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    expect(tokenizer.encode('<|user|>')).toContain(TOKENS.length - 1);
  });
});

const llamaCpp = resolve(process.env.LUTRA_LLAMA_CPP ?? '.', 'node_modules/node-llama-cpp/dist/index.js');

describe.skipIf(!existsSync(llamaCpp))('llama.cpp', () => {
  it('makes the same tokens of every text', () => {
    const request = JSON.stringify({ model: path, prompts: [], texts: TEXTS, maxTokens: 0 });
    const out = execFileSync(process.execPath, ['test/support/llama-cpp.mjs', llamaCpp, request], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const { tokens } = JSON.parse(out.trim().split('\n').at(-1)!) as {
      readonly tokens: readonly (readonly number[])[];
    };
    // It leaves the first token, bos, to its caller.
    expect(TEXTS.map((text) => tokenizer.encode(text).slice(1))).toEqual(tokens);
  });
});
