import { LutraError } from '../common/errors.ts';
import { BARE_NAME } from './print.ts';

/** A word of the text: a bare name, a quoted one, a number or a mark such as `{`. */
export interface Token {
  readonly kind: 'name' | 'string' | 'number' | 'mark' | 'end';
  /** A string's content; otherwise the characters themselves. */
  readonly text: string;
  readonly line: number;
  readonly column: number;
}

const SPACE = /[ \t\r\n]+|\/\/[^\n]*/y;
const NUMBER = /-?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|Infinity(?![A-Za-z0-9_.-]))/y;
const STRING = /"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"/y;
const MARK = /[{}()[\]:,=@]/y;

/** Fails with the place: `graph text, line 3, column 7: ...`. */
export function failAt({ line, column }: Pick<Token, 'line' | 'column'>, what: string): never {
  throw new LutraError('invalid', `graph text, line ${line}, column ${column}: ${what}`);
}

/** Cuts the text into words; the last one is of kind `end`. */
export function lex(text: string): readonly Token[] {
  const tokens: Token[] = [];
  let at = 0;
  let line = 1;
  let lineStart = 0;
  const take = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    at += found?.length ?? 0;
    return found;
  };
  for (;;) {
    for (let space = take(SPACE); space !== undefined; space = take(SPACE)) {
      for (let i = space.indexOf('\n'); i >= 0; i = space.indexOf('\n', i + 1)) {
        line++;
        lineStart = at - space.length + i + 1;
      }
    }
    const place = { line, column: at - lineStart + 1 };
    if (at === text.length) return [...tokens, { kind: 'end', text: '', ...place }];
    // Before names, so that Infinity is a number.
    const number = take(NUMBER);
    const name = number === undefined ? take(BARE_NAME) : undefined;
    const mark = number === undefined && name === undefined ? take(MARK) : undefined;
    if (number !== undefined) tokens.push({ kind: 'number', text: number, ...place });
    else if (name !== undefined)
      tokens.push({ kind: name === 'NaN' ? 'number' : 'name', text: name, ...place });
    else if (mark !== undefined) tokens.push({ kind: 'mark', text: mark, ...place });
    else tokens.push({ kind: 'string', text: unquoted(take(STRING), place, text[at]!), ...place });
  }
}

function unquoted(quoted: string | undefined, place: Pick<Token, 'line' | 'column'>, found: string): string {
  if (quoted === undefined) {
    failAt(
      place,
      found === '"' ? 'the string does not end on its line' : `unexpected ${JSON.stringify(found)}`,
    );
  }
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return failAt(place, `${quoted} is no JSON string`);
  }
}
