import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { LutraError } from '../common/errors.ts';
import { readJsonObject, specialTokenText, type TextSource } from './source.ts';

export interface Tokenizer {
  /** Number of ids, holes included: one more than the highest. */
  readonly vocab: number;
  /** Begins every text, where the model has such a token. */
  readonly bos: number | undefined;
  /** Ends a plain text: the first eos id of generation_config.json, of config.json, then the tokenizer's. */
  readonly endOfText: number | undefined;
  /** Any of these ends generation: all eos ids of generation_config.json or config.json, and the tokenizer's. */
  readonly eos: ReadonlySet<number>;
  /** Ids of control tokens, which `decode` leaves out. */
  readonly special: ReadonlySet<number>;
  /**
   * Token ids of a text. Special tokens written out in the text become their ids, as in transformers.
   * `addSpecialTokens` (default true) adds what the model expects around a plain text, mostly its bos.
   */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): number[];
  /**
   * The text of some ids, special tokens left out. Ids without a token (a model's vocabulary may be padded)
   * give nothing; bytes that are not UTF-8 give U+FFFD. `clean_up_tokenization_spaces` is never applied: it
   * changes what the model said (" ." in code), and what it removes would already have been streamed.
   */
  decode(ids: readonly number[]): string;
  /** The vocabulary's entry, as stored: `Ġthe`. */
  token(id: number): string | undefined;
}

/**
 * Builds the tokenizer from tokenizer.json and, where present, tokenizer_config.json and special_tokens_map.json.
 * Throws `not-found` when tokenizer.json is missing, `invalid` when a file is malformed.
 */
export function createTokenizer(source: TextSource): Tokenizer {
  const definition = readJsonObject(source, 'tokenizer.json');
  if (definition === undefined) {
    throw new LutraError('not-found', `tokenizer.json is missing in ${source.path}`, {
      hint: 'Put the tokenizer.json of the model there; a tokenizer.model or vocab.json alone cannot be read.',
    });
  }
  const inner = build(definition, readJsonObject(source, 'tokenizer_config.json') ?? {}, source.path);

  const special = new Set<number>();
  for (const [id, token] of inner.get_added_tokens_decoder()) {
    if (token.special) special.add(id);
  }
  let vocab = 0;
  for (const id of inner.get_vocab().values()) vocab = Math.max(vocab, id + 1);

  const idOf = (key: string): number | undefined => {
    const text = specialTokenText(source, key);
    return text === undefined ? undefined : inner.token_to_id(text);
  };
  const configured = configuredIds(source, 'eos_token_id');
  const tokenizerEos = idOf('eos_token');
  const eos = new Set(configured);
  if (tokenizerEos !== undefined) eos.add(tokenizerEos);

  return {
    vocab,
    bos: idOf('bos_token') ?? configuredIds(source, 'bos_token_id')[0],
    endOfText: configured[0] ?? tokenizerEos,
    eos,
    special,
    encode: (text, options = {}) => {
      if (text === '' && options.addSpecialTokens === false) return [];
      const { ids } = guarded(source.path, () =>
        inner.encode(text, { add_special_tokens: options.addSpecialTokens ?? true }),
      );
      // Without an unknown token the library gives undefined for what the vocabulary cannot spell.
      const missing = (ids as (number | undefined)[]).indexOf(undefined);
      if (missing >= 0) {
        throw new LutraError('invalid', 'the tokenizer has no token for a part of the text', {
          hint: `The vocabulary in ${source.path} is incomplete: it has neither byte tokens nor an unknown token.`,
        });
      }
      return ids;
    },
    decode: (ids) => {
      const known = ids.filter((id) => !special.has(id) && inner.id_to_token(id) !== undefined);
      if (known.length === 0) return '';
      return guarded(source.path, () =>
        inner.decode(known, { skip_special_tokens: true, clean_up_tokenization_spaces: false }),
      );
    },
    token: (id) => inner.id_to_token(id),
  };
}

/** What the library does with a definition, whose mistakes it finds in many ways, and some when it is used. */
function guarded<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LutraError('invalid', `tokenizer.json of ${path} cannot be used: ${reason}`, {
      hint: "It must be the `tokenizers` library's format with model, decoder, pre_tokenizer, ...: fetch it again.",
      cause,
    });
  }
}

/** The largest vocabularies in use have 262,144 tokens. */
const MAX_TOKENS = 1 << 22;

/** The library makes lists as long as the highest id, whatever it is. */
function checkIds(definition: Record<string, unknown>, path: string): void {
  const { model, added_tokens: added } = definition;
  const vocab = (model as { vocab?: unknown } | null | undefined)?.vocab;
  const inVocab =
    typeof vocab === 'object' && vocab !== null && !Array.isArray(vocab) ? Object.values(vocab) : [];
  const inAdded = Array.isArray(added) ? added.map((token) => (token as { id?: unknown } | null)?.id) : [];
  for (const id of [inVocab, inAdded].flat()) {
    if (Number.isInteger(id) && (id as number) >= 0 && (id as number) < MAX_TOKENS) continue;
    throw new LutraError(
      'invalid',
      `tokenizer.json of ${path} has a token with the id ${JSON.stringify(id)}`,
      {
        hint: `Ids are integers from 0 to ${MAX_TOKENS - 1}: fetch the file again.`,
      },
    );
  }
}

function build(
  definition: Record<string, unknown>,
  config: Record<string, unknown>,
  path: string,
): HuggingFaceTokenizer {
  checkIds(definition, path);
  // The library's decoder calls look every token up in added_tokens, so a missing list must be a list.
  return guarded(path, () => new HuggingFaceTokenizer({ added_tokens: [], ...definition }, config));
}

/** `eos_token_id` and the like: a number or a list, in generation_config.json or else in config.json. */
function configuredIds(source: TextSource, key: string): number[] {
  for (const config of [source.generationConfig, source.config]) {
    const value = config[key];
    const ids = (Array.isArray(value) ? value : [value]).filter((id): id is number => Number.isInteger(id));
    if (ids.length > 0) return ids;
  }
  return [];
}
