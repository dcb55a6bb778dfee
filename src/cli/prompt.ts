import { existsSync } from 'node:fs';
import { LutraError } from '../common/errors.ts';
import type { Io } from './io.ts';

/** The prompt given as words on the command line, or else everything on standard input. Never empty. */
export async function readPrompt(words: readonly string[], io: Io): Promise<string> {
  if (words.length > 0 && !(words.length === 1 && words[0] === '-')) return notEmpty(words.join(' '));
  if (words.length === 0 && io.inputIsTerminal) {
    throw new LutraError('usage', 'no prompt given', {
      hint: 'Write it behind the model, lutra run embedded "What is 4 + 106?", or pipe it in.',
    });
  }
  const chunks: Uint8Array[] = [];
  for await (const chunk of io.input) chunks.push(chunk);
  return notEmpty(decodeUtf8(Buffer.concat(chunks), 'standard input').replace(/\r?\n$/, ''));
}

/** Whether a prompt was given where the model belongs: it has spaces, and no file has that name. */
export function isPrompt(model: string): boolean {
  return /\s/.test(model.trim()) && !existsSync(model);
}

/** Throws `invalid` naming `where` and the place of the first byte that is not UTF-8. */
export function decodeUtf8(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new LutraError('invalid', `${where} is not UTF-8: see byte ${firstInvalidByte(bytes)}`, {
      hint: 'Convert it first, for example with iconv -t UTF-8.',
      cause,
    });
  }
}

/** Decoding replaces what is invalid and keeps the rest: the first difference is the place. */
function firstInvalidByte(bytes: Uint8Array): number {
  const again = new TextEncoder().encode(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes));
  const at = again.findIndex((byte, i) => byte !== bytes[i]);
  return at < 0 ? bytes.length : at;
}

function notEmpty(prompt: string): string {
  if (prompt.trim() === '') {
    throw new LutraError('usage', 'the prompt is empty', { hint: 'Give some text to answer or continue.' });
  }
  return prompt;
}
