import { LutraError } from '../../common/errors.ts';

export interface Position {
  readonly line: number;
  readonly column: number;
}

export interface Token extends Position {
  readonly kind: 'word' | 'number' | 'symbol' | 'end';
  readonly text: string;
}

export function syntaxError({ line, column }: Position, problem: string, cause?: unknown): never {
  throw new LutraError('invalid', `loop IR text, line ${line}, column ${column}: ${problem}`, { cause });
}

const TOKEN =
  /[A-Za-z_][A-Za-z0-9_]*|\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)|\+:|\.\.|<<|>>|<=|==|!=|[()[\]{},:=+\-*/%&|^<>@]/y;
const BLANK = /(?:\s|\/\/[^\n]*)+/y;

export function tokenize(text: string): readonly Token[] {
  const tokens: Token[] = [];
  let [at, line, lineStart] = [0, 1, 0];
  const position = () => ({ line, column: at - lineStart + 1 });
  while (at < text.length) {
    BLANK.lastIndex = at;
    const blank = BLANK.exec(text)?.[0];
    if (blank !== undefined) {
      for (let i = 0; i < blank.length; i++) {
        if (blank[i] === '\n') [line, lineStart] = [line + 1, at + i + 1];
      }
      at += blank.length;
      continue;
    }
    TOKEN.lastIndex = at;
    const found = TOKEN.exec(text)?.[0];
    if (found === undefined) syntaxError(position(), `unexpected ${JSON.stringify(text[at])}`);
    const kind = /[A-Za-z_]/.test(found[0]!) ? 'word' : /\d/.test(found[0]!) ? 'number' : 'symbol';
    tokens.push({ kind, text: found, ...position() });
    at += found.length;
  }
  tokens.push({ kind: 'end', text: 'the end of the text', ...position() });
  return tokens;
}

/** Walks along the tokens. */
export interface Cursor {
  /** The token `ahead` of the next one. */
  peek(ahead?: number): Token;
  next(): Token;
  /** Takes the next token if it is this word or symbol. */
  accept(text: string): boolean;
  expect(text: string): Token;
  word(what: string): Token;
  /** A whole number without sign. */
  count(what: string): number;
}

export function createCursor(tokens: readonly Token[]): Cursor {
  let at = 0;
  const peek = (ahead = 0) => tokens[Math.min(at + ahead, tokens.length - 1)]!;
  const next = () => {
    const token = peek();
    at++;
    return token;
  };
  const is = (token: Token, text: string) => token.kind !== 'end' && token.text === text;
  return {
    peek,
    next,
    accept(text) {
      if (!is(peek(), text)) return false;
      at++;
      return true;
    },
    expect(text) {
      const token = next();
      if (!is(token, text)) syntaxError(token, `expected ${text} but found ${token.text}`);
      return token;
    },
    word(what) {
      const token = next();
      if (token.kind !== 'word') syntaxError(token, `expected ${what} but found ${token.text}`);
      return token;
    },
    count(what) {
      const token = next();
      if (!/^\d+$/.test(token.text)) syntaxError(token, `expected ${what} but found ${token.text}`);
      return Number(token.text);
    },
  };
}
