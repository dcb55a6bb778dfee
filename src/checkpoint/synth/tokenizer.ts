/**
 * A byte-level BPE tokenizer without merges: every text has tokens, one for each byte, and every id of the
 * vocabulary has a text. The rest of the vocabulary are made-up words, so that what a model of random
 * weights says can be printed.
 */

/** Where the special tokens of a vocabulary are. */
export interface SynthVocabulary {
  readonly size: number;
  readonly specials: ReadonlyMap<number, string>;
  readonly bos: string;
  /** Ends a turn of a chat. */
  readonly endOfTurn: string;
}

/** Llama 3's order of the special tokens, from the begin-of-text token on; the others are reserved. */
const LLAMA3_SPECIALS: ReadonlyMap<number, string> = new Map([
  [0, '<|begin_of_text|>'],
  [1, '<|end_of_text|>'],
  [6, '<|start_header_id|>'],
  [7, '<|end_header_id|>'],
  [9, '<|eot_id|>'],
]);

/** Fewer ids than this from begin-of-text on have no room for all of them. */
export const LLAMA3_SPECIAL_COUNT = 10;

/** Specials at the end, from `bos` on, as in Llama 3. */
export function llama3Vocabulary(size: number, bos: number): SynthVocabulary {
  const specials = new Map<number, string>();
  let reserved = 0;
  for (let id = bos; id < size; id++) {
    specials.set(id, LLAMA3_SPECIALS.get(id - bos) ?? `<|reserved_special_token_${reserved++}|>`);
  }
  return { size, specials, bos: '<|begin_of_text|>', endOfTurn: '<|eot_id|>' };
}

/** Specials at the start, as in Llama 2, and padding added at the end. */
export function llama2Vocabulary(size: number, padding: number | undefined): SynthVocabulary {
  const specials = new Map([
    [0, '<unk>'],
    [1, '<s>'],
    [2, '</s>'],
  ]);
  if (padding !== undefined) specials.set(padding, '<pad>');
  return { size, specials, bos: '<s>', endOfTurn: '</s>' };
}

const SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" +
  '|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';

/** The content of tokenizer.json. */
export function synthTokenizer(vocabulary: SynthVocabulary): unknown {
  const { size, specials, bos } = vocabulary;
  const bosId = [...specials].find(([, content]) => content === bos)![0];
  const vocab: Record<string, number> = {};
  const bytes = byteTokens();
  let word = 0;
  for (let id = 0; id < size; id++) {
    if (!specials.has(id)) vocab[bytes.shift() ?? `Ġ${madeUpWord(word++)}`] = id;
  }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: Array.from(specials, ([id, content]) => ({ id, ...addedToken(content) })),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: SPLIT }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [
        { SpecialToken: { id: bos, type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: bos, type_id: 1 } },
        { Sequence: { id: 'B', type_id: 1 } },
      ],
      special_tokens: { [bos]: { id: bos, ids: [bosId], tokens: [bos] } },
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: true,
      vocab,
      merges: [],
    },
  };
}

/** The content of tokenizer_config.json, with the chat template of bitnet-b1.58-2B-4T: `Role: text<end>`. */
export function synthTokenizerConfig(vocabulary: SynthVocabulary, maxLength: number): unknown {
  const { specials, bos, endOfTurn } = vocabulary;
  return {
    added_tokens_decoder: Object.fromEntries(
      Array.from(specials, ([id, content]) => [id, addedToken(content)]),
    ),
    bos_token: bos,
    chat_template:
      '{% for message in messages %}' +
      `{% set content = message['role'] | capitalize + ': ' + message['content'] | trim + '${endOfTurn}' %}` +
      '{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}' +
      "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}",
    clean_up_tokenization_spaces: false,
    eos_token: endOfTurn,
    model_max_length: maxLength,
    tokenizer_class: 'PreTrainedTokenizerFast',
  };
}

function addedToken(content: string) {
  return { content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
}

/**
 * The characters by which byte-level BPE writes the 256 bytes, in the order that GPT-2 gave them: printable
 * ones stand for themselves, the others for 256 and up.
 */
function byteTokens(): string[] {
  const printable: number[] = [];
  for (const [first, last] of [
    [0x21, 0x7e],
    [0xa1, 0xac],
    [0xae, 0xff],
  ] as const) {
    for (let byte = first; byte <= last; byte++) printable.push(byte);
  }
  const rest = 256 - printable.length;
  return [...printable, ...Array.from({ length: rest }, (_, i) => 256 + i)].map((code) =>
    String.fromCharCode(code),
  );
}

/** The n-th word of three syllables; different for n below 343,000. */
function madeUpWord(n: number): string {
  let word = '';
  let rest = n;
  for (let syllable = 0; syllable < 3; syllable++) {
    word += 'bdfgklmnprstvz'[rest % 14]! + 'aeiou'[Math.floor(rest / 14) % 5]!;
    rest = Math.floor(rest / 70);
  }
  return word;
}
