/** The vocabulary of a GGUF file as the tokenizer.json and tokenizer_config.json that the model would have. */
import { LutraError } from '../../common/errors.ts';
import { malformed, quote } from '../failure.ts';
import { PRE_TOKENIZERS, preTokenizerPattern } from './pre-tokenizers.ts';
import type { Metadata } from './read-config.ts';
import { TOKEN_TYPES } from './write-vocabulary.ts';

type Json = Record<string, unknown>;

/** The largest vocabularies in use have 262,144 tokens. */
const MAX_TOKENS = 1 << 21;
/** SentencePiece's own limit is 16 characters; all ways to split a token are tried. */
const LONGEST_PIECE = 256;

/**
 * Text files by name, for the tokenizer and the chat template; empty when the file has no vocabulary.
 * @throws `unsupported` for a kind of tokenizer that lutra does not know, `invalid` for lists that do not fit
 */
export function vocabularyFiles(metadata: Metadata, file: string): ReadonlyMap<string, string> {
  const kind = metadata.get('tokenizer.ggml.model');
  if (kind === undefined || kind === 'none') return new Map();
  const tokens = stringList(metadata, 'tokenizer.ggml.tokens', file);
  if (tokens === undefined || tokens.length === 0 || tokens.length > MAX_TOKENS) {
    throw malformed(file, `it has ${tokens?.length ?? 0} tokens`, `1 to ${MAX_TOKENS}`);
  }
  const types = numberList(metadata, 'tokenizer.ggml.token_type', tokens.length, file);
  let definition: Json;
  if (kind === 'gpt2') definition = bytePairs(metadata, tokens, types, file);
  else if (kind === 'llama') definition = sentencePieces(metadata, tokens, types, file);
  else {
    throw new LutraError('unsupported', `${file}: the tokenizer ${quote(String(kind))} is not supported`, {
      hint: 'Supported: gpt2 (byte-level BPE) and llama (SentencePiece BPE).',
    });
  }
  const named = (key: string): Json => {
    const id = metadata.get(`tokenizer.ggml.${key}_token_id`);
    const content = typeof id === 'number' ? tokens[id] : undefined;
    return content === undefined ? {} : { [`${key === 'padding' ? 'pad' : key}_token`]: content };
  };
  const template = metadata.get('tokenizer.chat_template');
  const config = {
    ...named('bos'),
    ...named('eos'),
    ...named('padding'),
    ...(typeof template === 'string' ? { chat_template: template } : {}),
    clean_up_tokenization_spaces: false,
    tokenizer_class: 'PreTrainedTokenizerFast',
  };
  return new Map([
    ['tokenizer.json', JSON.stringify(definition)],
    ['tokenizer_config.json', JSON.stringify(config)],
  ]);
}

function stringList(metadata: Metadata, key: string, file: string): readonly string[] | undefined {
  const value = metadata.get(key);
  if (value === undefined) return undefined;
  if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value;
  throw malformed(file, `${key} is no list of strings`, 'a list of strings');
}

/** A list of one number per token; undefined when there is none. */
function numberList(
  metadata: Metadata,
  key: string,
  length: number,
  file: string,
): readonly number[] | undefined {
  const value = metadata.get(key);
  if (value === undefined) return undefined;
  if (Array.isArray(value) && value.length === length && value.every((item) => typeof item === 'number')) {
    return value;
  }
  throw malformed(file, `${key} is no list of ${length} numbers`, 'one number per token');
}

/** tokenizer.json's `added_tokens`: those that are never the result of merges. */
function addedTokens(tokens: readonly string[], types: readonly number[] | undefined): Json[] {
  const added: Json[] = [];
  for (const [id, content] of tokens.entries()) {
    const type = types?.[id];
    const special = type === TOKEN_TYPES.control || type === TOKEN_TYPES.unknown;
    if (!special && type !== TOKEN_TYPES.user) continue;
    added.push({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special });
  }
  return added;
}

/** Ids by token, without those that are there only to fill the embedding, and without doubles. */
function vocabularyOf(tokens: readonly string[], types: readonly number[] | undefined): Map<string, number> {
  const vocab = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    if (types?.[id] !== TOKEN_TYPES.unused && !vocab.has(token)) vocab.set(token, id);
  }
  return vocab;
}

/** What comes before a plain text: bos, where the file says so. */
function postProcessor(metadata: Metadata, tokens: readonly string[], byDefault: boolean): Json | null {
  const id = metadata.get('tokenizer.ggml.bos_token_id');
  const bos = typeof id === 'number' ? tokens[id] : undefined;
  if (bos === undefined || (metadata.get('tokenizer.ggml.add_bos_token') ?? byDefault) !== true) return null;
  return {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } },
  };
}

/** Names whose words are in the vocabulary as they are even where merges would not make them. */
const WHOLE_WORDS: ReadonlySet<string> = new Set(['llama-bpe', 'llama-v3', 'llama3', 'falcon3', 'tekken']);

function bytePairs(
  metadata: Metadata,
  tokens: readonly string[],
  types: readonly number[] | undefined,
  file: string,
): Json {
  const name = metadata.get('tokenizer.ggml.pre') ?? 'default';
  const pattern = preTokenizerPattern(String(name));
  if (pattern === undefined) {
    throw new LutraError(
      'unsupported',
      `${file}: the pre-tokenizer ${quote(String(name))} is not supported`,
      {
        hint: `Supported: ${PRE_TOKENIZERS.join(', ')}.`,
      },
    );
  }
  const merges = stringList(metadata, 'tokenizer.ggml.merges', file) ?? [];
  const split = { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true };
  return {
    version: '1.0',
    added_tokens: addedTokens(tokens, types),
    normalizer: null,
    pre_tokenizer:
      pattern === null
        ? { ...bytes, use_regex: true }
        : { type: 'Sequence', pretokenizers: [split, { ...bytes, use_regex: false }] },
    post_processor: postProcessor(metadata, tokens, WHOLE_WORDS.has(String(name))),
    decoder: { ...bytes, use_regex: true },
    model: {
      type: 'BPE',
      unk_token: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: WHOLE_WORDS.has(String(name)),
      vocab: Object.fromEntries(vocabularyOf(tokens, types)),
      merges,
    },
  };
}

/**
 * SentencePiece merges whichever pair gives the token of the highest score: the same as merging by rank,
 * where every way to split a token into two others is a pair, those of higher scores first.
 */
function sentencePieces(
  metadata: Metadata,
  tokens: readonly string[],
  types: readonly number[] | undefined,
  file: string,
): Json {
  const scores = numberList(metadata, 'tokenizer.ggml.scores', tokens.length, file);
  if (scores === undefined) throw malformed(file, 'it has no tokenizer.ggml.scores', 'one number per token');
  const vocab = vocabularyOf(tokens, types);
  const mergeable = (id: number) => types === undefined || types[id] === TOKEN_TYPES.normal;
  const ranked: {
    readonly left: string;
    readonly right: string;
    readonly score: number;
    readonly id: number;
  }[] = [];
  for (const [token, id] of vocab) {
    if (!mergeable(id) || token.length > LONGEST_PIECE) continue;
    const characters = [...token];
    let left = '';
    for (const character of characters.slice(0, -1)) {
      left += character;
      const right = token.slice(left.length);
      const [leftId, rightId] = [vocab.get(left), vocab.get(right)];
      if (leftId === undefined || rightId === undefined || !mergeable(leftId) || !mergeable(rightId))
        continue;
      ranked.push({ left, right, score: scores[id]!, id });
    }
  }
  ranked.sort((a, b) => b.score - a.score || a.id - b.id || a.left.length - b.left.length);
  const unknownId = metadata.get('tokenizer.ggml.unknown_token_id') ?? types?.indexOf(TOKEN_TYPES.unknown);
  const unknown = typeof unknownId === 'number' ? tokens[unknownId] : undefined;
  const space = metadata.get('tokenizer.ggml.add_space_prefix') !== false;
  const replace = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  return {
    version: '1.0',
    added_tokens: addedTokens(tokens, types),
    normalizer: {
      type: 'Sequence',
      normalizers: space ? [{ type: 'Prepend', prepend: '▁' }, replace] : [replace],
    },
    pre_tokenizer: null,
    post_processor: postProcessor(metadata, tokens, true),
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(space ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      unk_token: unknown ?? null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(vocab),
      merges: ranked.map(({ left, right }) => [left, right]),
    },
  };
}
