/**
 * Mutated files, from the header to the config and the tokenizer: read or refused, nothing else. For a long
 * run: LUTRA_FUZZ=1000000 npx vitest run src/checkpoint/gguf/fuzz.test.ts
 */
import { expect, test } from 'vitest';
import { LutraError } from '../../common/errors.ts';
import { randomUniform } from '../../common/random.ts';
import { parseGgufHeader } from './header.ts';
import { generationConfig, modelConfig } from './read-config.ts';
import { vocabularyFiles } from './read-vocabulary.ts';
import { ggufFile, value } from './testing.ts';

const RUNS = Number(process.env.LUTRA_FUZZ ?? 3000);

function seedFile(kind: 'gpt2' | 'llama'): Uint8Array {
  const sizes = [
    'embedding_length',
    'block_count',
    'context_length',
    'feed_forward_length',
    'attention.head_count',
  ];
  return ggufFile({
    entries: [
      ['general.architecture', value.text('llama')],
      ...sizes.map((key) => [`llama.${key}`, value.u32(64)] as const),
      ['llama.attention.layer_norm_rms_epsilon', value.f32(1e-5)],
      ['general.alignment', value.u32(32)],
      ['general.sampling.temp', value.f32(0.6)],
      ['tokenizer.ggml.model', value.text(kind)],
      ['tokenizer.ggml.pre', value.text('gpt-2')],
      ['tokenizer.ggml.tokens', value.texts(['<unk>', '<s>', '▁', 'a', 'b', 'ab', '▁ab'])],
      ['tokenizer.ggml.token_type', value.i32s([2, 3, 1, 1, 1, 1, 1])],
      ['tokenizer.ggml.scores', value.f32s([0, 0, -3, -3, -3, -1, -2])],
      ['tokenizer.ggml.merges', value.texts(['a b', '▁ ab'])],
      ['tokenizer.ggml.bos_token_id', value.u32(1)],
      ['tokenizer.ggml.add_bos_token', value.bool(true)],
      ['tokenizer.chat_template', value.text('{{ messages }}')],
    ],
    tensors: [0, 8, 14, 34, 36, 38, 39, 42].map((type, i) => ({
      name: `blk.${i}.attn_q.weight`,
      type,
      sizes: [256, 4],
      data: new Uint8Array([4096, 1088, 840, 216, 288, 288, 544, 288][i]!),
    })),
  });
}

/** What lengths, counts, types and offsets go wrong at. */
const EXTREMES = [
  0n,
  1n,
  2n,
  31n,
  255n,
  2n ** 16n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 46n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
];

test(`${RUNS} mutated files`, { timeout: 3_600_000 }, () => {
  const seeds = [seedFile('gpt2'), seedFile('llama')];
  const headerEnd = seeds.map((seed) => parseGgufHeader(seed, seed.length, 'x')!.tensors[0]!.begin);
  const uniform = randomUniform(51);
  const below = (limit: number) => Math.floor(uniform() * limit);
  const outcomes = { read: 0, refused: 0 };
  const memory = process.memoryUsage().rss;
  for (let run = 0; run < RUNS; run++) {
    const seed = seeds[run % 2]!;
    const bytes = seed.slice();
    const view = new DataView(bytes.buffer);
    for (let change = below(4); change >= 0; change--) {
      const at = below(headerEnd[run % 2]! - 8);
      const kind = below(4);
      if (kind < 2) bytes[at] = below(256);
      else if (kind === 2) view.setBigUint64(at, EXTREMES[below(EXTREMES.length)]!, true);
      else view.setUint32(at, Number(EXTREMES[below(8)]!), true);
    }
    const file = below(4) === 0 ? bytes.subarray(0, below(bytes.length)) : bytes;
    try {
      const header = parseGgufHeader(file, file.length, 'x.gguf');
      if (header === undefined) continue;
      const outside = header.tensors.find(({ begin, end }) => begin > end || end > file.length);
      if (outside !== undefined) throw new Error(`tensor ${outside.name} is outside the file`);
      modelConfig(header.metadata, { vocab: 7, tied: true, ternary: true }, 'x.gguf');
      generationConfig(header.metadata);
      vocabularyFiles(header.metadata, 'x.gguf');
      outcomes.read++;
    } catch (error) {
      if (!(error instanceof LutraError) || !/^(invalid|unsupported)$/.test(error.code)) throw error;
      outcomes.refused++;
    }
  }
  // Both happen: the mutations are neither harmless nor hopeless.
  expect(outcomes.read).toBeGreaterThan(RUNS / 100);
  expect(outcomes.refused).toBeGreaterThan(RUNS / 4);
  expect(process.memoryUsage().rss - memory).toBeLessThan(512 * 1024 * 1024);
});
