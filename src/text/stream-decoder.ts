import type { Tokenizer } from './tokenizer.ts';

/**
 * Turns tokens into text as they come, never splitting a character: a character may be spread over several
 * tokens (bytes of an emoji), and is given out whole with the token that completes it.
 */
export interface StreamDecoder {
  /** The text that is certain once this token is known; may be empty. */
  push(id: number): string;
  /** What was still held back, at the end: U+FFFD for bytes that never became a character. */
  end(): string;
}

const REPLACEMENT = '\ufffd';

/**
 * The pieces concatenated equal `tokenizer.decode` of all ids.
 *
 * Bytes that are not yet a character decode to one U+FFFD at the end of the text, so everything before a
 * final U+FFFD is certain. Only a window of tokens is decoded at each step: once the text ends in a whole
 * character, everything but the last token is dropped. That one stays because decoders treat the first
 * token of a text differently (SentencePiece models drop its leading space); what it decodes to by itself
 * is subtracted, whatever it is.
 */
export function createStreamDecoder(tokenizer: Pick<Tokenizer, 'decode' | 'special'>): StreamDecoder {
  let window: number[] = [];
  /** Characters of the window's text that were given out. */
  let given = 0;

  return {
    push(id) {
      if (tokenizer.special.has(id)) return '';
      window.push(id);
      const text = tokenizer.decode(window);
      const certain = text.endsWith(REPLACEMENT) ? text.length - 1 : text.length;
      const piece = text.slice(given, certain);
      given = Math.max(given, certain);
      if (text !== '' && certain === text.length) {
        // An anchor that decodes to nothing could not take the place of the text's first token.
        const anchor = tokenizer.decode([id]);
        if (anchor !== '') {
          window = [id];
          given = anchor.length;
        }
      }
      return piece;
    },
    end() {
      const rest = tokenizer.decode(window).slice(given);
      window = [];
      given = 0;
      return rest;
    },
  };
}
