/** tokenizer.json and its companions as the metadata by which llama.cpp and its kin build their tokenizers. */
import { LutraError } from '../../common/errors.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { malformed } from '../failure.ts';
import { isObject, parseObject } from '../json.ts';
import type { GgufEntry } from './metadata.ts';
import { preTokenizerName } from './pre-tokenizers.ts';

/** What `tokenizer.ggml.token_type` says of a token. */
export const TOKEN_TYPES = { normal: 1, unknown: 2, control: 3, user: 4, unused: 5, byte: 6 } as const;

type Entries = [string, GgufEntry][];
type Json = Record<string, unknown>;

const BYTE_TOKEN = /^<0x[0-9A-Fa-f]{2}>$/;

/**
 * Tokens, merges, special tokens and chat template of a checkpoint.
 * @param size rows of the embedding: llama.cpp wants a token for each, so that holes are filled with padding
 * @throws `unsupported` for a tokenizer that GGUF has no form for, `invalid` for a malformed one
 */
export function vocabularyEntries(checkpoint: Checkpoint, size: number): Entries {
  const where = `${checkpoint.path}/tokenizer.json`;
  const text = checkpoint.textFiles.get('tokenizer.json');
  if (text === undefined) {
    throw new LutraError('not-found', `${where} is missing`, {
      hint: 'A GGUF file has the tokenizer inside: put the tokenizer.json of the model there.',
    });
  }
  const definition = parseObject(text, where);
  const { model } = definition;
  if (!isObject(model) || model.type !== 'BPE' || !isObject(model.vocab)) {
    throw unsupported(where, 'a tokenizer that is not BPE');
  }
  const config = parseObject(checkpoint.textFiles.get('tokenizer_config.json') ?? '{}', where);
  const spm = model.byte_fallback === true && stepsOf(definition.pre_tokenizer, 'ByteLevel').length === 0;
  const { tokens, types } = tokenList(definition, model.vocab, size, spm, where);
  const merges = mergeList(model.merges, where);
  const entries: Entries = [
    ['tokenizer.ggml.model', { type: 'string', value: spm ? 'llama' : 'gpt2' }],
    ['tokenizer.ggml.pre', { type: 'string', value: spm ? 'default' : preTokenizer(definition, where) }],
    ['tokenizer.ggml.tokens', { type: 'strings', value: tokens }],
    ['tokenizer.ggml.token_type', { type: 'i32s', value: types }],
    spm
      ? ['tokenizer.ggml.scores', { type: 'f32s', value: scores(tokens, merges) }]
      : ['tokenizer.ggml.merges', { type: 'strings', value: merges.map((pair) => pair.join(' ')) }],
  ];
  entries.push(...specialIds(checkpoint, config, tokens));
  entries.push(['tokenizer.ggml.add_bos_token', { type: 'bool', value: addsBos(definition) }]);
  if (spm) entries.push(['tokenizer.ggml.add_space_prefix', { type: 'bool', value: addsSpace(definition) }]);
  const template = chatTemplate(checkpoint, config);
  if (template !== undefined) entries.push(['tokenizer.chat_template', { type: 'string', value: template }]);
  return entries;
}

function unsupported(where: string, what: string): LutraError {
  return new LutraError('unsupported', `${where}: ${what} has no form in GGUF that lutra knows`, {
    hint: 'Supported: byte-level BPE with the words of GPT-2, Llama 3 or Qwen 2, and BPE with byte fallback.',
  });
}

/** The processors of one type, found in a pipeline's `Sequence` too. */
function stepsOf(pipeline: unknown, type: string): Json[] {
  if (!isObject(pipeline)) return [];
  if (pipeline.type === type) return [pipeline];
  const parts = pipeline.pretokenizers ?? pipeline.processors ?? pipeline.normalizers;
  return Array.isArray(parts) ? parts.flatMap((part) => stepsOf(part, type)) : [];
}

function tokenList(definition: Json, vocab: Json, size: number, spm: boolean, where: string) {
  const tokens = Array.from({ length: size }, (_, id) => `[PAD${id}]`);
  const types = new Array<number>(size).fill(TOKEN_TYPES.unused);
  const place = (id: unknown, content: string, type: number) => {
    if (!Number.isSafeInteger(id) || (id as number) < 0 || (id as number) >= size) {
      throw malformed(where, `the id of token ${JSON.stringify(content)} is ${id}`, `0 to ${size - 1}`);
    }
    tokens[id as number] = content;
    types[id as number] = type;
  };
  for (const [content, id] of Object.entries(vocab)) {
    place(id, content, spm && BYTE_TOKEN.test(content) ? TOKEN_TYPES.byte : TOKEN_TYPES.normal);
  }
  const { unk_token: unknown } = definition.model as Json;
  const { added_tokens: added } = definition;
  for (const token of Array.isArray(added) ? added : []) {
    if (!isObject(token) || typeof token.content !== 'string') continue;
    const isUnknown = spm && token.content === unknown;
    const kind = token.special === true ? TOKEN_TYPES.control : TOKEN_TYPES.user;
    place(token.id, token.content, isUnknown ? TOKEN_TYPES.unknown : kind);
  }
  return { tokens, types };
}

/** Pairs, in files either `"a b"` or `["a", "b"]`. */
function mergeList(merges: unknown, where: string): (readonly [string, string])[] {
  return (Array.isArray(merges) ? merges : []).map((merge) => {
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    if (Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === 'string')) {
      return pair as unknown as readonly [string, string];
    }
    throw malformed(where, `the merge ${JSON.stringify(merge)} is no pair`, 'two tokens');
  });
}

/** A token's rank as llama.cpp merges by: the earlier a pair is merged, the higher the score of what it gives. */
function scores(tokens: readonly string[], merges: readonly (readonly [string, string])[]): number[] {
  const rank = new Map<string, number>();
  for (const [index, pair] of merges.entries()) {
    const token = pair.join('');
    if (!rank.has(token)) rank.set(token, index);
  }
  return tokens.map((token) => -(rank.get(token) ?? merges.length));
}

function preTokenizer(definition: Json, where: string): string {
  const splits = stepsOf(definition.pre_tokenizer, 'Split');
  const [split] = splits;
  const pattern = isObject(split?.pattern) ? split.pattern.Regex : null;
  const name = splits.length <= 1 ? preTokenizerName(pattern as string | null) : undefined;
  if (name === undefined) throw unsupported(where, `the pre-tokenizer with the pattern ${pattern}`);
  return name;
}

/** Whether a plain text begins with a special token. */
function addsBos(definition: Json): boolean {
  const [template] = stepsOf(definition.post_processor, 'TemplateProcessing');
  const first: unknown = Array.isArray(template?.single) ? template.single[0] : undefined;
  return isObject(first) && first.SpecialToken !== undefined;
}

function addsSpace(definition: Json): boolean {
  if (stepsOf(definition.normalizer, 'Prepend').length > 0) return true;
  const [metaspace] = stepsOf(definition.pre_tokenizer, 'Metaspace');
  return metaspace !== undefined && metaspace.prepend_scheme !== 'never';
}

function idsOf(value: unknown): number[] {
  return (Array.isArray(value) ? value : [value]).filter((id): id is number => Number.isSafeInteger(id));
}

/**
 * Ids of bos and of what ends a text: GGUF has one id for the end of a text and one for the end of a turn,
 * and readers know further ones by their names.
 */
function specialIds(
  { config, generationConfig }: Checkpoint,
  tokenizer: Json,
  tokens: readonly string[],
): Entries {
  const named = (key: string): number[] => {
    const token = isObject(tokenizer[key]) ? tokenizer[key].content : tokenizer[key];
    const id = typeof token === 'string' ? tokens.indexOf(token) : -1;
    return id < 0 ? [] : [id];
  };
  const configured = (key: string) => {
    const ids = idsOf(generationConfig[`${key}_id`]);
    return ids.length > 0 ? ids : idsOf(config[`${key}_id`]);
  };
  const [bos] = [...named('bos_token'), ...configured('bos_token')];
  const [eos, eot] = new Set([...configured('eos_token'), ...named('eos_token')]);
  const [padding] = [...named('pad_token'), ...configured('pad_token')];
  const entries: Entries = [];
  const add = (key: string, value: number | undefined) => {
    if (value !== undefined) entries.push([`tokenizer.ggml.${key}_token_id`, { type: 'u32', value }]);
  };
  add('bos', bos);
  add('eos', eos);
  add('eot', eot);
  add('padding', padding);
  return entries;
}

function chatTemplate({ textFiles }: Checkpoint, config: Json): string | undefined {
  const own = textFiles.get('chat_template.jinja');
  if (own !== undefined) return own;
  const template = config.chat_template;
  if (typeof template === 'string') return template;
  if (!Array.isArray(template)) return undefined;
  const named = template.filter(isObject);
  const chosen = named.find(({ name }) => name === 'default') ?? (named.length === 1 ? named[0] : undefined);
  return typeof chosen?.template === 'string' ? chosen.template : undefined;
}
