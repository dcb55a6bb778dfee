import { LutraError } from '../common/errors.ts';

/** The texts a model brings along: what both a checkpoint and a compiled artifact can give. */
export interface TextSource {
  /** Where they come from, for messages. */
  readonly path: string;
  /** Contents of tokenizer.json, tokenizer_config.json, chat_template.jinja, ... by file name. */
  readonly textFiles: ReadonlyMap<string, string>;
  /** config.json, parsed; only its token ids are read. */
  readonly config: Readonly<Record<string, unknown>>;
  /** generation_config.json, parsed; empty when there is none. */
  readonly generationConfig: Readonly<Record<string, unknown>>;
}

/** A JSON object of the source by file name; undefined when the file is missing, `invalid` when it is malformed. */
export function readJsonObject(source: TextSource, file: string): Record<string, unknown> | undefined {
  const text = source.textFiles.get(file);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LutraError('invalid', `${file} of ${source.path} is not JSON: ${reason}`, {
      hint: 'The file is damaged or cut short: fetch it again.',
      cause,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new LutraError('invalid', `${file} of ${source.path} holds no JSON object`, {
      hint: 'The file is damaged or belongs to something else: fetch it again.',
    });
  }
  return value as Record<string, unknown>;
}

/**
 * The text of a special token such as `bos_token`: from tokenizer_config.json, then special_tokens_map.json.
 * Both write it as a string or as an object with `content`.
 */
export function specialTokenText(source: TextSource, key: string): string | undefined {
  for (const file of ['tokenizer_config.json', 'special_tokens_map.json']) {
    const value = readJsonObject(source, file)?.[key];
    if (typeof value === 'string') return value;
    if (typeof value === 'object' && value !== null && 'content' in value) {
      if (typeof value.content === 'string') return value.content;
    }
  }
  return undefined;
}
