import { Template } from '@huggingface/jinja';
import { LutraError } from '../common/errors.ts';
import type { ChatMessage } from '../runtime/types.ts';
import { readJsonObject, specialTokenText, type TextSource } from './source.ts';

/** Writes a conversation as the text that the model was trained on. */
export interface ChatTemplate {
  /**
   * `addGenerationPrompt` (default true) ends the text where the assistant's answer begins. Throws `invalid`
   * when the template refuses the conversation, as some do when roles do not alternate.
   */
  render(messages: readonly ChatMessage[], options?: { readonly addGenerationPrompt?: boolean }): string;
}

const RAW_HINT = 'Give the prompt as plain text instead: --raw on the command line, `raw: true` in the API.';

/**
 * The template of chat_template.jinja or else of tokenizer_config.json (a string, or a list of named ones of
 * which `default` is taken). Throws `not-found` when there is none, `invalid` when it does not parse.
 */
export function createChatTemplate(source: TextSource): ChatTemplate {
  const { text, file } = findTemplate(source);
  let template: Template;
  try {
    template = new Template(text);
  } catch (cause) {
    throw new LutraError(
      'invalid',
      `the chat template in ${file} of ${source.path} does not parse: ${message(cause)}`,
      { hint: RAW_HINT, cause },
    );
  }
  const tokens: Record<string, string> = {};
  for (const key of ['bos_token', 'eos_token', 'unk_token', 'pad_token']) {
    const value = specialTokenText(source, key);
    if (value !== undefined) tokens[key] = value;
  }
  return {
    render(messages, options = {}) {
      try {
        return template.render({
          ...tokens,
          messages: messages.map(({ role, content }) => ({ role, content })),
          add_generation_prompt: options.addGenerationPrompt ?? true,
          // Templates ask `tools is not none`, which an undefined name would answer wrongly.
          tools: null,
          documents: null,
        });
      } catch (cause) {
        throw new LutraError('invalid', `the chat template refused the conversation: ${message(cause)}`, {
          hint: RAW_HINT,
          cause,
        });
      }
    },
  };
}

function findTemplate(source: TextSource): { text: string; file: string } {
  const own = source.textFiles.get('chat_template.jinja');
  if (own !== undefined) return { text: own, file: 'chat_template.jinja' };
  const file = 'tokenizer_config.json';
  const value = readJsonObject(source, file)?.chat_template;
  if (typeof value === 'string') return { text: value, file };
  if (Array.isArray(value)) {
    const named = value.filter(isNamedTemplate);
    const chosen =
      named.find(({ name }) => name === 'default') ?? (named.length === 1 ? named[0] : undefined);
    if (chosen !== undefined) return { text: chosen.template, file };
    const names = named.map(({ name }) => name).join(', ') || 'none';
    throw new LutraError(
      'not-found',
      `no chat template named "default" in ${file} of ${source.path} (${names})`,
      {
        hint: RAW_HINT,
      },
    );
  }
  throw new LutraError('not-found', `${source.path} has no chat template`, { hint: RAW_HINT });
}

function isNamedTemplate(value: unknown): value is { name: string; template: string } {
  if (typeof value !== 'object' || value === null) return false;
  const { name, template } = value as Record<string, unknown>;
  return typeof name === 'string' && typeof template === 'string';
}

function message(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
